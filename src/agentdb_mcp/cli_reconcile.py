"""`reconcile`: the plan, line by line, and with `--fix` what became of it."""

from __future__ import annotations

import json
import sys

import typer

from agentdb_mcp.services.reconcile import Finding, Mended, Reconcile


async def run_reconcile(reconcile: Reconcile, *, fix: bool, as_json: bool) -> bool:
    """Print what differs; whether nothing does any more."""
    findings = await reconcile.look()
    if not fix:
        for finding in findings:
            _print(finding, None, as_json)
        if not as_json:
            print(f"{len(findings)} differences." + (" Run it with --fix to mend them." if findings else ""))
        return not findings
    failed = 0
    with typer.progressbar(length=len(findings), label="mending", file=sys.stderr) as bar:

        def tell(mended: Mended) -> None:
            nonlocal failed
            failed += mended.error is not None
            bar.update(1)
            _print(mended.finding, mended, as_json)

        await reconcile.mend(findings, tell)
    if not as_json:
        print(f"{len(findings) - failed} mended, {failed} not.")
    return not failed


def _print(finding: Finding, mended: Mended | None, as_json: bool) -> None:
    error = mended.error if mended else None
    if as_json:
        fields = {
            "kind": str(finding.kind),
            "project_name": finding.project_name,
            "project_id": finding.project_id,
            "mending": finding.mending,
            "mended": mended is not None and error is None,
            "error": error and {"code": error.code, "message": error.message, "hint": error.hint},
        }
        print(json.dumps(fields))
        return
    outcome = (
        ""
        if mended is None
        else " — done"
        if error is None
        else " — failed: " + " ".join(filter(None, (error.message, error.hint)))
    )
    print(f"{finding.kind:13}{finding.project_name} {finding.project_id or ''}: {finding.mending}{outcome}")
