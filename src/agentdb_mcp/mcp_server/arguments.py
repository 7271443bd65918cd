"""The arguments of each tool: one strict model, which is its input schema and its validation."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentdb_mcp.errors import InvalidArgument
from agentdb_mcp.models import Scope
from agentdb_mcp.policy import LimitRules

Name = Annotated[str, Field(min_length=1, max_length=63)]
Sql = Annotated[str, Field(min_length=1, description="One SQL statement; $1, $2, … take values from params.")]
Handle = Annotated[str, Field(min_length=1, max_length=100, description="next_handle, or a handle of cut.")]
Params = Annotated[
    list[Any],
    Field(
        max_length=1000,
        description="Values for $1, $2, …; a list for an array, an object for json, base64 for bytea, ISO 8601 for"
        " timestamps.",
    ),
]


class Arguments(BaseModel):
    """Unknown names and wrong types are refused, nothing is coerced."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, title="")


DATABASE_ARGUMENT: dict[str, Any] = {
    "type": "string",
    "enum": [str(scope) for scope in Scope],
    "default": str(Scope.AGENT),
    "description": "agent: your own; global: shared.",
}


def input_schema(model: type[Arguments], limits: LimitRules, *, with_database: bool) -> dict[str, Any]:
    """JSON Schema 2020-12 with the policy's bounds, without pydantic's noise; `database` if the scope is not fixed."""
    schema: dict[str, Any] = _without_titles(model.model_json_schema())
    schema.pop("description", None)
    schema.setdefault("properties", {})
    defined = schema.pop("$defs", {})
    for part in schema["properties"].values():  # each is named once: in its place it is shorter, and easier to read
        if (items := part.get("items", {})) and "$ref" in items:
            part["items"] = defined[items["$ref"].rpartition("/")[2]]
    for part in (schema, *defined.values()):
        properties = part.get("properties", {})
        for text in properties.keys() & {"sql", "query"}:
            properties[text]["maxLength"] = limits.max_sql_bytes
        if "max_rows" in properties:
            properties["max_rows"] = {
                "type": "integer",
                "minimum": 1,
                "maximum": limits.max_rows,
                "description": properties["max_rows"]["description"],
            }
        if "statements" in properties:
            properties["statements"]["maxItems"] = limits.max_statements
    if with_database:
        schema["properties"]["database"] = DATABASE_ARGUMENT
    return schema


def parse(model: type[Arguments], given: dict[str, Any]) -> Arguments:
    """The arguments, or InvalidArgument naming the first that is wrong and what would be right."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "arguments"
        known = ", ".join(model.model_fields)
        if first["type"] == "extra_forbidden":
            message = f"There is no argument {place[:80]!r}."
        elif first["type"] == "missing":
            message = f"The argument {place} is missing."
        else:
            message = f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}."
    raise InvalidArgument(message, hint=f"The arguments are: {known}." if known else "It takes no arguments.")


def _without_titles(schema: Any) -> Any:  # noqa: ANN401
    if isinstance(schema, dict):
        return {
            key: {name: _without_titles(item) for name, item in value.items()}
            if key == "properties"
            else _without_titles(value)
            for key, value in schema.items()
            if key != "title"
        }
    return [_without_titles(item) for item in schema] if isinstance(schema, list) else schema
