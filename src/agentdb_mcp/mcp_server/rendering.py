"""Answers as structured content, and as short text for a model.

What comes out of a database was written by somebody: in the text it stands in a frame whose mark is random for every
answer, so that no row can close it. The structured rows are not altered.
"""

from __future__ import annotations

import base64
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from agentdb_mcp.costs import MICROCENTS_PER_CENT
from agentdb_mcp.errors import AgentDBError, SqlError
from agentdb_mcp.mcp_server.encoding import compact, lines
from agentdb_mcp.models import BudgetReport, Result
from agentdb_mcp.services import Copied, Page


@dataclass(frozen=True, slots=True)
class Rendered:
    """One tool's answer, both ways."""

    structured: dict[str, Any]
    text: str


def result(answer: Result, budget_note: str | None = None, notes: Sequence[str] = ()) -> Rendered:
    """Columns, rows and what to know about them."""
    fields, said = _remarks(budget_note, notes)
    return Rendered(result_fields(answer) | fields, "\n".join([_result_text(answer), *said]))


def page(answer: Page, kept_s: float) -> Rendered:
    """A page of rows, what is not whole in it, and how to get the rest."""
    fields, said = _remarks(answer.budget_note, answer.notes)
    shown, text = _page(answer, kept_s)
    return Rendered(shown | fields, "\n".join([text, *said]))


def pages(answers: list[Page], kept_s: float) -> Rendered:
    """Each statement's page, in order."""
    fields, said = _remarks(answers[-1].budget_note, answers[-1].notes)
    shown = [_page(answer, kept_s) for answer in answers]
    texts = [f"{number}. {text}" for number, (_, text) in enumerate(shown, 1)]
    return Rendered({"results": [each for each, _ in shown]} | fields, "\n".join([*texts, *said]))


def _page(answer: Page, kept_s: float) -> tuple[dict[str, Any], str]:
    names = [column.name for column in answer.result.columns]
    shown, said = result_fields(answer.result), list[str]()
    if not answer.result.command_tag and not answer.result.duration_ms:  # nothing ran
        del shown["command_tag"], shown["duration_ms"]
    if answer.value:
        start, length = answer.value
        said.append(f"Characters {start + 1:,} to {start + answer.result.bytes:,} of {length:,}.")
        shown["value"] = {"offset": start, "length": length}
    if answer.total is not None and answer.total != len(answer.result.rows):
        shown["total_rows"] = answer.total
    if answer.next:
        shown |= {"next_handle": answer.next, "held_rows": answer.held}
    if answer.result.truncated:
        shown["more"] = _more(answer, kept_s)
        said.append(shown["more"])
    if answer.cut:
        shown["cut"] = [
            {"row": cut.row, "column": names[cut.column], "type": "text", "length": cut.length}
            | ({"handle": cut.handle} if cut.handle else {})
            for cut in answer.cut
        ]
        said += _cut_lines(answer)
    places = {(cut.row, cut.column) for cut in answer.cut}
    return shown, "\n".join([_result_text(answer.result, places), *said])


def _more(answer: Page, kept_s: float) -> str:
    if not answer.next:
        return _MORE
    call = f"get_rows with handle {answer.next} gives the next, for {kept_s / 60:g} minutes."
    if answer.value:
        return f"The value goes on: {call}"
    rows = f"{answer.held:,} more row{' is' if answer.held == 1 else 's are'} held: {call}"
    return rows if answer.total is not None else f"{rows} There are more than these: {_KEYSET}"


def _cut_lines(answer: Page) -> list[str]:
    """By number: a column's name is somebody's text."""
    lines = [
        f"rows[{cut.row}][{cut.column}] is cut, of {cut.length:,} characters"
        + (f": get_rows with handle {cut.handle} gives the rest." if cut.handle else f". {_SUBSTRING}")
        for cut in answer.cut[:MAX_CUT_LINES]
    ]
    left = len(answer.cut) - len(lines)
    return [*lines, f"{left} more values are cut; `cut` of the structured answer lists them."] if left else lines


def results(answers: list[Result], budget_note: str | None = None, notes: Sequence[str] = ()) -> Rendered:
    """Each statement's answer, in order."""
    fields, said = _remarks(budget_note, notes)
    texts = [f"{number}. {_result_text(answer)}" for number, answer in enumerate(answers, 1)]
    return Rendered({"results": [result_fields(answer) for answer in answers]} | fields, "\n".join([*texts, *said]))


def _remarks(budget_note: str | None, notes: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """What an answer says beside its rows, as fields and as lines."""
    fields: dict[str, Any] = {}
    if notes:
        fields["notes"] = list(notes)
    if budget_note:
        fields["budget_note"] = budget_note
    return fields, [*notes, *([budget_note] if budget_note else [])]


def result_fields(answer: Result) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "columns": [
            {"name": column.name, "type": column.type} | ({"encoding": column.encoding} if column.encoding else {})
            for column in answer.columns
        ],
        "rows": answer.rows,
        "row_count": len(answer.rows),
        "truncated": answer.truncated,
        "command_tag": answer.command_tag,
        "duration_ms": answer.duration_ms,
    }
    if answer.truncated:
        fields["more"] = _MORE
    return fields


_KEYSET = (
    "ask for them with ORDER BY on a key and a WHERE past the last key seen, or select fewer columns, or aggregate."
)
_MORE = f"More rows exist: {_KEYSET}"
_SUBSTRING = "Read it in parts with substring(column, from, length)."
MAX_CUT_LINES = 20


def _result_text(answer: Result, cut: Collection[tuple[int, int]] | None = None) -> str:
    """`cut` are places of values that are not whole, for a page; what it says of more rows comes after its rows."""
    if not answer.columns:
        return f"{answer.command_tag or 'OK'} ({answer.duration_ms:.0f} ms)"
    count = f"{len(answer.rows)} row{'' if len(answer.rows) == 1 else 's'}"
    took = f" ({answer.duration_ms:.0f} ms)" if answer.duration_ms else ""
    head = f"{count}{', truncated' if answer.truncated else ''}{took}"
    names = [column.name for column in answer.columns]
    body = framed(lines([names, *_readable_rows(answer, cut or ())]))
    return f"{head}\n{body}" + (f"\n{_MORE}" if answer.truncated and cut is None else "")


def _readable_rows(answer: Result, cut: Collection[tuple[int, int]]) -> list[list[object]]:
    """Rows with bytes as Postgres writes them, which is what a model writes back into SQL."""
    places = [index for index, column in enumerate(answer.columns) if column.type == "bytea"]
    if not places:
        return answer.rows
    return [
        [
            "\\x" + base64.b64decode(value).hex()
            if index in places and isinstance(value, str) and (number, index) not in cut
            else value
            for index, value in enumerate(row)
        ]
        for number, row in enumerate(answer.rows)
    ]


def listing(key: str, rows: list[dict[str, Any]], *, empty: str, notes: Sequence[str] = ()) -> Rendered:
    """Rows of our own catalog reads as objects."""
    fields, said = _remarks(None, notes)
    text = framed("\n".join(compact(row) for row in rows)) if rows else empty
    return Rendered({key: rows} | fields, "\n".join([text, *said]))


def as_objects(answer: Result) -> list[dict[str, Any]]:
    """Rows by column name; what is null is left out."""
    names = [column.name for column in answer.columns]
    return [{name: value for name, value in zip(names, row, strict=True) if value is not None} for row in answer.rows]


def remarked(fields: dict[str, Any], text: str, budget_note: str | None, notes: Sequence[str]) -> Rendered:
    """An answer with what else there is to say; the text is framed already where it has to be."""
    remarks, said = _remarks(budget_note, notes)
    return Rendered(fields | remarks, "\n".join([text, *said]))


def details(fields: dict[str, Any], notes: Sequence[str] = ()) -> Rendered:
    remarks, said = _remarks(None, notes)
    return Rendered(fields | remarks, "\n".join([framed(compact(fields)), *said]))


def told(fields: dict[str, Any], text: str) -> Rendered:
    """Fields, and a text of ours in which what others wrote stands framed already."""
    return Rendered(fields, text)


def copied(answer: Copied) -> Rendered:
    """What a copy came to."""
    fields, said = _remarks(answer.budget_note, [*answer.notes, *answer.remarks])
    table = ".".join(answer.table)
    fields |= {
        "database": str(answer.scope),
        "table": table,
        "rows": answer.rows,
        "bytes": answer.bytes,
        "columns": [{"name": column.name, "type": column.type} for column in answer.columns],
        "duration_ms": answer.duration_ms,
    }
    head = f"{answer.rows:,} rows copied into {table} of {answer.scope} ({answer.duration_ms:.0f} ms)"
    lines = [line for line in said if line not in answer.remarks]
    frame = [framed("\n".join(answer.remarks))] if answer.remarks else []
    return Rendered(fields, "\n".join([head, *frame, *lines]))


def budget(report: BudgetReport, allowed: list[str]) -> Rendered:
    """The month in cents; parts are rounded so that they sum to the total."""
    used, limit = report.used_microcents // MICROCENTS_PER_CENT, report.limit_microcents // MICROCENTS_PER_CENT
    fields: dict[str, Any] = {
        "managed": True,
        "state": str(report.state),
        "tier": report.tier,
        "limit_cents": limit,
        "used_cents": used,
        "remaining_cents": max(0, limit - used),
        "committed_cents": report.committed_microcents // MICROCENTS_PER_CENT,
        "period_start": report.period_start,
        "period_end": report.period_end,
        "allowed": allowed,
        "databases": [
            {"name": cost.name, "scope": str(cost.scope), "cost_cents": cost.cents, "size_bytes": cost.size_bytes}
            for cost in report.by_database
        ],
    }
    head = (
        f"Budget {report.state}: used ${used / 100:.2f} of ${limit / 100:.2f}, ${max(0, limit - used) / 100:.2f} left"
        f" until {report.period_end}. Allowed now: {', '.join(allowed) or 'nothing'}."
    )
    if committed := fields["committed_cents"]:
        head += f" Of what is left, the data that is stored now will cost ${committed / 100:.2f} until then."
    lines = [f"{item['name']} ({item['scope']}): ${item['cost_cents'] / 100:.2f}" for item in fields["databases"]]
    return Rendered(fields, "\n".join([head, *lines]))


def unmanaged_budget() -> Rendered:
    fields = {
        "managed": False,
        "state": "ok",
        "limit_cents": None,
        "used_cents": None,
        "remaining_cents": None,
        "committed_cents": None,
        "allowed": ["everything that policy allows"],
        "databases": [],
    }
    return Rendered(fields, "This database is not metered: there is no budget here.")


def error(failure: AgentDBError) -> Rendered:
    """One sentence on what was wrong, where, and what to do next; many clients show this text alone."""
    context = failure.context if isinstance(failure, SqlError) else None
    answered = framed(f"{failure.message}\n{context}") if context else framed(failure.message, " ")
    parts = [f"Postgres answered: {answered}" if failure.untrusted else _sentence(failure.message)]
    if failure.sqlstate:
        place = f", at character {failure.position}" if failure.position else ""
        parts.append(f"(SQLSTATE {failure.sqlstate}{place})")
    if failure.hint:
        parts.append(_sentence(failure.hint))
    return Rendered({"error": failure.as_dict()}, " ".join(parts))


def framed(text: str, gap: str = "\n") -> str:
    """Mark text as data from a database; the mark cannot be guessed by whoever wrote the data."""
    mark = f"untrusted-data-{secrets.token_hex(8)}"
    return f"<{mark}>{gap}{text}{gap}</{mark}>"


def _sentence(text: str) -> str:
    text = text.strip()
    return text if text.endswith((".", "!", "?", "…")) else text + "."
