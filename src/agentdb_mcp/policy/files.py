"""Policy files: the shipped default, and a file over it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from agentdb_mcp.errors import ConfigurationError
from agentdb_mcp.policy.mistakes import explain
from agentdb_mcp.policy.rules import Policy

DEFAULT = "default.toml"


def load_policy(path: Path | None) -> Policy:
    """A policy file over the shipped default, or the default alone; ConfigurationError names file and key."""
    shipped = default_path()
    document = _read(shipped)
    if path is not None:
        own = _read(path)
        if "name" not in own:
            raise ConfigurationError(f"{path}: name is missing")
        _refuse_changed_books(document, own, path)
        document = _merge(document, own)
    try:
        return Policy.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(explain(error, str(path or shipped), Policy)) from None


def default_path() -> Path:
    """Inside the package in an installed package, at the top of a checkout."""
    here = Path(__file__).resolve().parents[1]
    packaged = here / "policies" / DEFAULT
    return packaged if packaged.is_file() else here.parents[1] / "policies" / DEFAULT


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"{path}: there is no such file") from None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path}: is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: is not valid TOML: {error}") from None


def _merge(base: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            merged[key] = _merge(below, value)
        else:
            merged[key] = value
    return merged


def _refuse_changed_books(shipped: dict[str, Any], own: dict[str, Any], path: Path) -> None:
    """A shipped book's name means its figures, wherever they were recorded."""
    before, after = shipped["price_books"], _merge(shipped, own)["price_books"]
    for name in before if isinstance(after, dict) else ():
        if after[name] != before[name]:
            raise ConfigurationError(f"{path}: price_books.{name} is shipped as it is: give your book another name")
