"""What the soak found, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Check:
    what: str
    figure: str
    line: str
    ok: bool


@dataclass
class Report:
    """`facts` are what happened, `details` what is worth knowing of checks that failed."""

    facts: dict[str, Any] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    details: list[str] = field(default_factory=list)

    def check(self, what: str, figure: object, line: str, ok: bool) -> None:
        self.checks.append(Check(what, str(figure), line, ok))

    @property
    def ok(self) -> bool:
        return bool(self.checks) and all(check.ok for check in self.checks)

    def markdown(self) -> str:
        lines = [f"{name}: {value}" for name, value in self.facts.items()]
        lines += ["", "| what | figure | line | ok |", "|---|---|---|---|"]
        for check in self.checks:
            lines.append(f"| {check.what} | {check.figure} | {check.line} | {'yes' if check.ok else '**NO**'} |")
        lines += ["", *(f"- {detail}" for detail in self.details)] if self.details else []
        return "\n".join([*lines, "", "All of it held." if self.ok else "NOT all of it held."])

    def write(self, path: Path) -> None:
        """JSON where the name ends so, else Markdown."""
        fields = {"ok": self.ok, **asdict(self)}
        text = json.dumps(fields, indent=2) if path.suffix == ".json" else f"# Soak\n\n{self.markdown()}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
