"""Attack and legitimate cases through `execute_sql` of running `serve` processes, checked from outside.

`AGENTDB_ATTACK_CASES` names the file of cases (JSON lines), `AGENTDB_ATTACK_GATE=off` takes the gate away so that the
walls stand alone. Run as a program it prints `N passed, N failed` and the ids that failed; arguments choose cases by
id or group.
"""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import anyio
import psutil
from mcp.client import Client

sys.path.insert(0, str(Path(__file__).parent))
from attack_arena import HERE, Arena, Output, arena
from attack_checks import afterwards, look, outside

# How what is wrong begins where all that is wrong is the time.
SLOW = ("max_seconds: ", "loop_stall_max: ")
OWN_CASES = HERE / "cases.jsonl"
SHARED_CASES = HERE.parents[2] / "shared" / "attacks" / "cases.jsonl"

NO_SHARED_CASES = (
    ""
    if os.environ.get("AGENTDB_ATTACK_CASES") or SHARED_CASES.exists()
    else "there is no ../shared/attacks/cases.jsonl beside the checkout; AGENTDB_ATTACK_CASES names a file of cases"
)


def load_cases(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]


def case_files() -> list[Path]:
    """The file that the environment names, else the shared one where there is one; our own always."""
    named = os.environ.get("AGENTDB_ATTACK_CASES")
    return [Path(named)] if named else [path for path in (SHARED_CASES, OWN_CASES) if path.exists()]


def has_known_gap(case: dict[str, Any]) -> bool:
    return any("known_gap" in check for check in case["check"])


async def run_case(built: Arena, case: dict[str, Any], *, gate: bool) -> list[str]:
    """What is wrong with this case; empty if it holds. Without the gate only promises about damage count.

    What takes too long has to do so each of three times: a busy machine is no finding.
    """
    for _ in range(2):
        wrong = await _run_once(built, case, gate=gate)
        if not wrong or not all(each.startswith(SLOW) for each in wrong):
            return wrong
    return await _run_once(built, case, gate=gate)


async def _run_once(built: Arena, case: dict[str, Any], *, gate: bool) -> list[str]:
    await built.renew()
    for sql in case.get("setup", []):
        await built.call("normal", built.fill(sql))
    checks: dict[str, Any] = {}
    for check in case["check"]:
        checks.setdefault("su", []).append(check) if "su" in check else checks.update(check)
    before = await look(built, checks)
    _reset_peak(built)
    outputs, stalls = await _perform(built, case)
    wrong = _verdict(case, outputs) if gate else []
    if not gate and case["must"] == "allowed":
        checks = {}
    wrong += _limits(built, checks, outputs, stalls)
    wrong += await outside(built, checks, before)
    wrong += await afterwards(built, outputs)
    return wrong


async def _perform(built: Arena, case: dict[str, Any]) -> tuple[list[Output], list[float]]:
    outputs: list[Output] = []
    stalls = [0.0]
    async with anyio.create_task_group() as group:
        group.start_soon(_watch_stalls, built.clients[case["mode"]], stalls)
        for step in _steps(case):
            output = await built.call(step.get("mode", case["mode"]), built.fill(step["sql"]))
            if "expect" in step and not re.search(built.fill(step["expect"]), output.text):
                output.text += f"\nEXPECTED {step['expect']}"
            outputs.append(output)
        group.cancel_scope.cancel()
    return outputs, stalls


def _steps(case: dict[str, Any]) -> list[dict[str, Any]]:
    if "steps" in case:
        return list(case["steps"])
    if "sql_z" in case:
        return [{"sql": zlib.decompress(base64.b64decode(case["sql_z"])).decode("utf-8")}]
    return [{"sql": case["sql"]}]


async def _watch_stalls(client: Client, stalls: list[float]) -> None:
    """How long another caller of the same process waits for an answer that needs no database."""
    while True:
        started = time.monotonic()
        await client.call_tool("execute_sql", {"nothing": 1})
        stalls.append(time.monotonic() - started)
        await anyio.sleep(0.05)


def _verdict(case: dict[str, Any], outputs: list[Output]) -> list[str]:
    last = outputs[-1]
    wrong = [output.text[-200:] for output in outputs if "\nEXPECTED " in output.text]
    if case["must"] == "blocked" and not last.failed:
        wrong.append(f"not blocked: {last.text[:200]}")
    if case["must"] == "allowed" and last.failed:
        wrong.append(f"refused: {last.text[:200]}")
    return wrong


def _limits(built: Arena, checks: dict[str, Any], outputs: list[Output], stalls: list[float]) -> list[str]:
    text, wrong = "\n".join(output.text for output in outputs), []
    seconds = sum(output.seconds for output in outputs)
    peak = max(_peak_mb(process) for process in built.processes.values())
    for limit, value in (
        ("max_seconds", seconds),
        ("max_rss_mb", peak),
        ("max_output_bytes", len(text.encode("utf-8", "replace"))),
        ("loop_stall_max", max(stalls)),
    ):
        if limit in checks and value > checks[limit]:
            wrong.append(f"{limit}: {value:.1f} > {checks[limit]}")
    wrong += [
        f"output shows {pattern}"
        for pattern in _listed(checks.get("out_not", []))
        if re.search(built.fill(pattern), text)
    ]
    wrong += [
        f"output lacks {pattern}: {text[:200]}"
        for pattern in _listed(checks.get("out_has", []))
        if not re.search(built.fill(pattern), text)
    ]
    return wrong


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def _reset_peak(built: Arena) -> None:
    for process in built.processes.values():
        Path(f"/proc/{process.pid}/clear_refs").write_text("5")


def _peak_mb(process: psutil.Process) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found.group(1)) / 1024 if found else 0.0


# --- as a program ---------------------------------------------------------------------------------------------


async def run_all(*, gate: bool, only: set[str]) -> tuple[int, dict[str, list[str]]]:
    """How many cases held, and what is wrong with the others."""
    failed: dict[str, list[str]] = {}
    every = [case for path in case_files() for case in load_cases(path) if not has_known_gap(case)]
    cases = [case for case in every if not only or case["id"] in only or case["group"] in only]
    async with arena(gate=gate) as built:
        for case in cases:
            try:
                wrong = await run_case(built, case, gate=gate)
            except Exception as error:  # noqa: BLE001  (a case that breaks the runner has failed)
                wrong = [f"{type(error).__name__}: {error}"]
            if wrong:
                failed[case["id"]] = wrong
                print(f"{case['id']}: {'; '.join(wrong)}", file=sys.stderr, flush=True)
    return len(cases) - len(failed), failed


def main() -> None:
    gate = os.environ.get("AGENTDB_ATTACK_GATE", "on") != "off"
    passed, failed = anyio.run(lambda: run_all(gate=gate, only=set(sys.argv[1:])))
    if failed:
        print(f"failed with the gate {'on' if gate else 'off'}: {' '.join(failed)}")
    print(f"{passed} passed, {len(failed)} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
