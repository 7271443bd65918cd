"""The next step after an error, in words of our own: nothing of the message but digits and words of closed lists."""

from __future__ import annotations

import re

from agentdb_mcp.errors import Diagnosis
from agentdb_mcp.hints.names import RESERVED

_PARAMETER = re.compile(r"\bparameter \$(\d{1,5})\b")
_LENGTH = re.compile(r"type (character|character varying|bit|bit varying)\((\d{1,9})\)")
_WORD = re.compile(r"[A-Za-z_]+")
_NAME_IN_QUOTES = re.compile(r'(?:[\w$]+\.)*"')
# What comes with an extension that policy may allow.
_EXTENSION_OF_TYPE = {"vector": "vector", "halfvec": "vector", "sparsevec": "vector"} | {
    name: name for name in ("citext", "hstore", "ltree", "cube", "seg")
}
_EXTENSION_OF_FUNCTION = {
    "similarity": "pg_trgm", "word_similarity": "pg_trgm", "gen_salt": "pgcrypto", "crypt": "pgcrypto",
    "digest": "pgcrypto", "hmac": "pgcrypto", "uuid_generate_v4": "uuid-ossp", "uuid_generate_v1": "uuid-ossp",
    "unaccent": "unaccent", "levenshtein": "fuzzystrmatch", "soundex": "fuzzystrmatch", "crosstab": "tablefunc",
}  # fmt: skip
# What other databases call it.
_FUNCTIONS_HERE = {
    "ifnull": "coalesce(a, b)", "isnull": "coalesce(a, b)", "nvl": "coalesce(a, b)", "getdate": "now()",
    "sysdate": "now()", "curdate": "current_date", "group_concat": "string_agg(value, ',')", "len": "length(text)",
    "charindex": "strpos(text, part)", "instr": "strpos(text, part)", "date_format": "to_char(time, format)",
    "strftime": "to_char(time, format)", "datediff": "a - b", "json_extract": "value -> 'key'", "iif": "CASE WHEN",
}  # fmt: skip
_TYPE = re.compile(r'type "([a-z_]+)(?:\[\])?" does not exist')
_FUNCTION = re.compile(r"function (?:public\.)?([a-z_0-9]+)\(")

_VALUE_CLASSES = frozenset({"22P02", "22P03", "22003", "22007", "22008", "22021", "22023", "22026", "22P04"})
_SAID = {
    "21000": "Let the subquery give one row: aggregate it, add LIMIT 1, or use IN instead of =.",
    "22007": "Write dates and times as 2026-01-31 and 2026-01-31T12:00:00Z.",
    "22008": "The date or time is outside of the calendar or of the type's range: correct it.",
    "22003": "The number is too large for its type: use bigint or numeric.",
    "23514": "Change the value so that the check holds, or change the constraint if it is wrong.",
    "23P01": "Change the value so that it does not overlap with the row that is there.",
    "2BP01": "Drop what depends on it first, or use DROP … CASCADE if that may go too.",
    "3F000": "See list_schemas; make one with CREATE SCHEMA.",
    "42701": "Name each column once.",
    "42702": "Put the table's name or its alias before the column.",
    "42712": "Give each of them an alias of its own.",
    "42725": "Cast the arguments, as in $1::int, so that one operator or function fits.",
    "42804": "Cast the value to the type that is wanted, as in $1::int or column::text.",
    "42846": "There is no cast between these types: go by text, as in value::text::int, or write the conversion.",
    "42P08": "Cast the parameter to the same type wherever it stands, as in $1::int.",
    "42P10": "ON CONFLICT has to name the columns of a primary key or unique index, as get_object_details lists them.",
    "428C9": "Leave the column out: Postgres makes its value.",
}


def advice(sqlstate: str, said: Diagnosis, sql: str = "", position: int | None = None) -> str | None:
    """None where the code alone says as much; `position` is 1-based in `sql`."""
    at = sql[position - 1 :] if position else ""
    by_code = {
        "21000": _cardinality,
        "22001": _too_long,
        "23503": _foreign_key,
        "23514": _check,
        "42601": _syntax,
        "42703": _column,
        "42704": _undefined_object,
        "42883": _function,
        "42P01": _table,
        "42P18": _untyped,
    }
    if sqlstate in _VALUE_CLASSES and (found := _PARAMETER.search(said.context)):
        number = int(found[1])
        return f"${number} does not fit its type: correct params[{number - 1}], or cast to another type in the SQL."
    if sqlstate == "42601" and not at and sql.rstrip(" \t\r\n;)").endswith("?"):
        return _AT["?"]
    if sqlstate in by_code and (found_advice := by_code[sqlstate](said, at)):
        return found_advice
    return _SAID.get(sqlstate)


def _cardinality(said: Diagnosis, _: str) -> str | None:
    if said.message.startswith("ON CONFLICT"):
        return "The rows that are inserted hold the same key twice: leave one of them, for instance by DISTINCT ON."
    return None


def _too_long(said: Diagnosis, _: str) -> str | None:
    if found := _LENGTH.search(said.message):
        return (
            f"Shorten the value to {found[2]} characters, as left(value, {found[2]}) does, or make the column wider:"
            " ALTER TABLE … ALTER COLUMN … TYPE text."
        )
    return None


def _foreign_key(said: Diagnosis, _: str) -> str | None:
    if said.message.startswith("insert"):
        return "Insert the row that is referred to first, or use a key that is there."
    if said.message.startswith("update or delete"):
        return "Other rows refer to this one: change or delete them first, or declare ON DELETE CASCADE or SET NULL."
    return None


def _check(said: Diagnosis, _: str) -> str | None:
    if said.message.startswith("no partition"):
        return "Make a partition that takes the value, or a default one."
    return None


def _column(_: Diagnosis, at: str) -> str | None:
    if _NAME_IN_QUOTES.match(at):
        return (
            "Double quotes are for names: if this is a text, write it in single quotes. See the table's columns with"
            " get_object_details."
        )
    return None


def _undefined_object(said: Diagnosis, _: str) -> str | None:
    found = _TYPE.match(said.message)
    if found and (extension := _EXTENSION_OF_TYPE.get(found[1])):
        return _install(extension)
    if said.message.startswith("unrecognized configuration parameter"):
        return "SHOW is for settings; list_objects and get_object_details show tables and columns."
    return None


def _function(said: Diagnosis, _: str) -> str | None:
    if said.message.startswith("operator"):
        return "The types beside the operator do not go together: cast one, as in $1::int or column::text."
    found = _FUNCTION.match(said.message)
    if found and (extension := _EXTENSION_OF_FUNCTION.get(found[1])):
        return _install(extension)
    if found and (here := _FUNCTIONS_HERE.get(found[1])):
        return f"Postgres has {here} for that."
    return "Check its name, and the number and types of its arguments; cast them where needed, as in $1::int."


def _install(extension: str) -> str:
    name = f'"{extension}"' if "-" in extension else extension
    return f"It comes with an extension: CREATE EXTENSION {name}, where policy allows it."


def _table(said: Diagnosis, _: str) -> str | None:
    if said.message.startswith(("missing FROM", "invalid reference to FROM")):
        return "Name the table in FROM or JOIN; where it has an alias, use the alias."
    return None


def _untyped(said: Diagnosis, _: str) -> str | None:
    found = _PARAMETER.search(said.message)
    return f"Give the parameter a type in the SQL, such as ${found[1]}::int or ${found[1]}::text." if found else None


_AT = {
    "`": "Names stand in double quotes in Postgres, not in backticks.",
    "?": "Parameters are written $1, $2, … in Postgres.",
    "%s": "Parameters are written $1, $2, … in Postgres.",
    ":": "Parameters are written $1, $2, … in Postgres, and casts as value::type.",
    "$": "A parameter stands for a value, not for a name or a keyword: write those into the SQL.",
    "[": "Names stand in double quotes in Postgres, not in brackets.",
    "@": "Postgres has no variables; parameters are written $1, $2, …",
}
_WORDS = {
    "auto_increment": "Postgres numbers rows with GENERATED ALWAYS AS IDENTITY.",
    "autoincrement": "Postgres numbers rows with GENERATED ALWAYS AS IDENTITY.",
    "describe": "get_object_details describes tables.",
}


def _syntax(said: Diagnosis, at: str) -> str | None:
    """Where Postgres stopped, not always where the mistake is."""
    if "end of input" in said.message:
        return "The statement ends too early: look for an open bracket or a missing part."
    if "unterminated" in said.message:
        return "Close the quote or comment that begins here; a quote inside a text is written twice."
    if said.message.startswith("INSERT has more"):
        return "Give as many values as columns; get_object_details lists them."
    if "must have the same number of columns" in said.message:
        return "Select the same number of columns on both sides."
    for sign, meaning in _AT.items():
        if at.startswith(sign):
            return meaning
    word = found[0].lower() if (found := _WORD.match(at)) else ""
    if word in _WORDS:
        return _WORDS[word]
    if word in RESERVED:
        return f"Correct the syntax before {word.upper()}; if it is meant as a name, put it in double quotes."
    return None
