"""Dockerfile and compose.yaml, read as strictly as tests need: what is not understood is an error."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
INSTRUCTIONS = {
    *("FROM", "RUN", "ENV", "WORKDIR", "COPY", "LABEL", "USER", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
}
_REFERENCE = re.compile(r"\$\$|\$\{(?P<name>[A-Z_]+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}|\$")


@dataclass(frozen=True)
class Step:
    """One instruction of a Dockerfile."""

    name: str
    rest: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.rest)

    @property
    def command(self) -> list[str]:
        """The exec form, which needs no shell."""
        found = json.loads(self.rest[self.rest.index("[") :])
        assert all(isinstance(word, str) for word in found), self
        return list(found)


def stages() -> list[list[Step]]:
    """The Dockerfile's steps, each stage beginning with its FROM."""
    lines = (ROOT / "Dockerfile").read_text("utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    found: list[list[Step]] = []
    for line in filter(None, map(str.strip, re.sub(r"\\\n", " ", text).splitlines())):
        name, _, rest = line.partition(" ")
        assert name in INSTRUCTIONS, line
        assert "<<" not in rest, line
        if name == "FROM":
            found.append([])
        found[-1].append(Step(name, rest.strip()))
    return found


def only(stage: list[Step], name: str) -> Step:
    (step,) = [step for step in stage if step.name == name]
    return step


def environment(stage: list[Step]) -> dict[str, str]:
    return dict(word.split("=", 1) for step in stage if step.name == "ENV" for word in step.words)


def compose() -> dict[str, Any]:
    """compose.yaml as it stands, anchors and merges followed, variables not."""
    found = yaml.safe_load((ROOT / "compose.yaml").read_text("utf-8"))
    assert isinstance(found, dict)
    return found


def strings(value: Any) -> Iterator[str]:
    """Every text in a part of compose.yaml, keys left out."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from strings(part)
    elif isinstance(value, str):
        yield value


def references(value: Any) -> Iterator[tuple[str, str | None]]:
    """The variables that a part of compose.yaml takes from outside: name, and `?` (needed), `-` (has a default)."""
    for text in strings(value):
        for match in _REFERENCE.finditer(text):
            if match["name"]:
                yield match["name"], match["kind"]
            else:
                assert match[0] == "$$", f"{text}: a dollar sign alone"


def interpolated(value: Any, given: Mapping[str, str]) -> Any:
    """A part of compose.yaml as the containers get it."""
    if isinstance(value, dict):
        return {key: interpolated(part, given) for key, part in value.items()}
    if isinstance(value, list):
        return [interpolated(part, given) for part in value]
    if not isinstance(value, str):
        return value

    def put(match: re.Match[str]) -> str:
        if not match["name"]:
            return "$"
        if match["name"] in given:
            return given[match["name"]]
        assert match["kind"] == "-", match[0]
        return str(match["rest"])

    return _REFERENCE.sub(put, value)


def env_example() -> dict[str, str]:
    lines = (ROOT / ".env.example").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def setting_names() -> set[str]:
    """The environment variables that settings.py reads."""
    source = (ROOT / "src/agentdb_mcp/settings.py").read_text("utf-8")
    return set(re.findall(r'"((?:AGENTDB|NEON|AGENT|GLOBAL|ENCRYPTION)_[A-Z_]+)"', source))
