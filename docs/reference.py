"""Writes docs/tools.md from the tools themselves, docs/configuration.md, the costs in docs/scaling.md: `make docs`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docs.configuration_reference import configuration_page
from docs.fleet_costs import PAGE as SCALING
from docs.fleet_costs import scaling_page

from agentdb_mcp.mcp_server.arguments import input_schema
from agentdb_mcp.mcp_server.prompts import list_prompts
from agentdb_mcp.mcp_server.resources import list_resources, list_templates
from agentdb_mcp.mcp_server.tools import TOOLS
from agentdb_mcp.policy import load_policy

PAGE = Path(__file__).parent / "tools.md"
CONFIGURATION = Path(__file__).parent / "configuration.md"

_HEAD = """# Tools

What an agent sees, as the shipped policy has it; written by `make docs`. Unless a server's scope is fixed, each tool
but `copy_rows`, which needs both, takes `database` as well: `agent`, the agent's own and the default, or `global`,
which all agents of the user share.
An answer is structured content and a short text of the same; what comes out of a database stands in the text in a
frame that marks it as data. An error is `{code, message, hint, sqlstate?, position?, retryable}`.
"""


def tools_page() -> str:
    """The page, as Markdown."""
    return "\n".join([_HEAD, *_tools(), *_resources(), *_prompts()]).rstrip() + "\n"


def _tools() -> Iterator[str]:
    limits = load_policy(None).limits
    for tool in TOOLS:
        kind = "reads only" if tool.read_only else "may change or destroy" if tool.destructive else "writes"
        yield f"## `{tool.name}`\n\n**{tool.title}** ({kind}). {tool.description}\n"
        schema = input_schema(tool.arguments, limits, with_database=False)
        needed = schema.get("required", [])
        rows = [
            f"| `{name}` | {_type(part)} | {_default(name, part, needed)} | {part.get('description', '')} |"
            for name, part in schema["properties"].items()
        ]
        if rows:
            yield "\n".join(["| argument | type | default | |", "|---|---|---|---|", *rows, ""])


def _type(part: dict[str, Any]) -> str:
    if "enum" in part:
        return " \\| ".join(f"`{value}`" for value in part["enum"])
    if "anyOf" in part:
        return " or ".join(dict.fromkeys(_type(each) for each in part["anyOf"] if each != {"type": "null"}))
    if "properties" in part:
        names = [name + ("" if name in part.get("required", []) else "?") for name in part["properties"]]
        return "{" + ", ".join(names) + "}"
    if part.get("type") == "array" and part.get("items"):
        return f"list of {_type(part['items'])}"
    bounds = [f"{word} {part[key]:,}" for key, word in (("minimum", "≥"), ("maximum", "≤")) if key in part]
    return " ".join([str(part.get("type", "any value")), *bounds])


def _default(name: str, part: dict[str, Any], needed: list[str]) -> str:
    if name in needed:
        return "required"
    value = part.get("default")
    return "" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _resources() -> Iterator[str]:
    yield "## Resources\n"
    for resource in list_resources(None):
        yield f"- `{resource.uri}`: {resource.title}. {resource.description}"
    for template in list_templates(None):
        yield f"- `{template.uri_template}`: {template.title}. {template.description}"


def _prompts() -> Iterator[str]:
    yield "\n## Prompts\n"
    for prompt in list_prompts(None):
        arguments = ", ".join(f"`{each.name}`{'' if each.required else '?'}" for each in prompt.arguments or [])
        yield f"- `{prompt.name}` ({arguments}): {prompt.description}"


if __name__ == "__main__":
    for page, text in ((PAGE, tools_page()), (CONFIGURATION, configuration_page()), (SCALING, scaling_page())):
        page.write_text(text, "utf-8")
        sys.stdout.write(f"{page.name} is written\n")
