"""What an agent learns about its schemas, tables, views, sequences and extensions."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.acceptance.conftest import Serve

SCHEMA = """
CREATE SCHEMA crm
CREATE TABLE crm.people (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL DEFAULT 'nobody',
    age int CONSTRAINT grown CHECK (age >= 18),
    email text UNIQUE,
    shout text GENERATED ALWAYS AS (upper(name)) STORED
)
CREATE TABLE crm.visits (
    person int NOT NULL REFERENCES crm.people (id) ON DELETE CASCADE, day date, PRIMARY KEY (person, day)
)
CREATE INDEX people_by_age ON crm.people (age DESC) WHERE age IS NOT NULL
CREATE FUNCTION crm.touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'
CREATE TRIGGER people_touch BEFORE UPDATE ON crm.people FOR EACH ROW EXECUTE FUNCTION crm.touch()
COMMENT ON TABLE crm.people IS 'Everybody we know'
COMMENT ON COLUMN crm.people.age IS 'In years'
CREATE VIEW crm.adults AS SELECT id, name FROM crm.people WHERE age >= 18
CREATE MATERIALIZED VIEW crm.summary AS SELECT count(*) AS people FROM crm.people
CREATE SEQUENCE crm.tickets INCREMENT BY 5 START WITH 100 MAXVALUE 1000 CYCLE
CREATE TABLE crm."Odd ""name"" 😀" ("select" int)
CREATE TABLE crm.empty ()
INSERT INTO crm.people (name, age) SELECT 'p' || i, 20 + i FROM generate_series(1, 30) AS i
ANALYZE crm.people
"""


@pytest.fixture(scope="module")
async def crm(agent: Serve) -> Serve:
    texts = re.split(r"\n(?=[A-Z])", SCHEMA.strip())
    answer = await agent.call("execute_transaction", statements=[{"sql": sql} for sql in texts])
    assert not answer.is_error, answer.text
    return agent


async def details(agent: Serve, name: str, **arguments: Any) -> dict[str, Any]:
    answer = await agent.call("get_object_details", **({"schema_name": "crm", "object_name": name} | arguments))
    assert not answer.is_error, answer.text
    return answer.fields


def by_name(items: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in items}


async def test_schemas_tell_which_are_the_agent_s_own(crm: Serve) -> None:
    schemas = by_name((await crm.call("list_schemas")).fields["schemas"])
    assert schemas["crm"]["owner_kind"] == schemas["public"]["owner_kind"]
    assert schemas["pg_catalog"]["owner_kind"] == "system"
    assert schemas["crm"]["owner_kind"] != "system"


async def test_tables_are_listed_with_rows_size_and_comment(crm: Serve) -> None:
    answer = await crm.call("list_objects", schema_name="crm")
    objects = by_name(answer.fields["objects"])
    assert set(objects) == {"people", "visits", 'Odd "name" 😀', "empty"}
    assert objects["people"]["type"] == "table"
    assert objects["people"]["rows"] == 30
    assert objects["people"]["size_bytes"] > 0
    assert objects["people"]["comment"] == "Everybody we know"
    assert "people" in answer.text


@pytest.mark.parametrize(
    ("object_type", "names"),
    [("view", {"adults", "summary"}), ("sequence", {"people_id_seq", "tickets"})],
)
async def test_views_and_sequences_are_listed_by_themselves(crm: Serve, object_type: str, names: set[str]) -> None:
    answer = await crm.call("list_objects", schema_name="crm", object_type=object_type)
    assert set(by_name(answer.fields["objects"])) == names


async def test_extensions_are_listed(crm: Serve) -> None:
    answer = await crm.call("list_objects", object_type="extension")
    assert "plpgsql" in by_name(answer.fields["objects"])


async def test_a_schema_without_objects_has_an_empty_list(crm: Serve) -> None:
    answer = await crm.call("list_objects", schema_name="crm", object_type="extension", database="global")
    assert not answer.is_error
    empty = await crm.call("list_objects", schema_name="public", object_type="sequence")
    assert empty.fields["objects"] == []
    assert empty.text


async def test_a_table_tells_its_columns(crm: Serve) -> None:
    columns = (await details(crm, "people"))["columns"]
    assert [column["name"] for column in columns] == ["id", "name", "age", "email", "shout"]
    found = by_name(columns)
    assert found["id"]["type"] == "integer"
    assert found["id"]["nullable"] is False
    assert found["id"]["identity"] == "always"
    assert found["name"]["default"] == "'nobody'::text"
    assert found["age"]["nullable"] is True
    assert found["age"]["comment"] == "In years"
    assert "upper" in found["shout"]["generated"]


async def test_a_table_tells_its_keys_checks_indexes_and_triggers(crm: Serve) -> None:
    people = await details(crm, "people")
    constraints = by_name(people["constraints"])
    assert constraints["people_pkey"]["type"] == "primary key"
    assert constraints["people_email_key"]["type"] == "unique"
    assert constraints["grown"]["type"] == "check"
    assert "age >= 18" in constraints["grown"]["definition"]
    indexes = by_name(people["indexes"])
    assert "age DESC" in indexes["people_by_age"]["definition"]
    assert indexes["people_pkey"]["unique"] is True
    (trigger,) = people["triggers"]
    assert trigger["name"] == "people_touch"
    assert "BEFORE UPDATE" in trigger["definition"]
    assert people["comment"] == "Everybody we know"


async def test_a_foreign_key_tells_where_it_points(crm: Serve) -> None:
    constraints = (await details(crm, "visits"))["constraints"]
    (foreign,) = [constraint for constraint in constraints if constraint["type"] == "foreign key"]
    assert "REFERENCES crm.people(id)" in foreign["definition"]
    assert "ON DELETE CASCADE" in foreign["definition"]
    (primary,) = [constraint for constraint in constraints if constraint["type"] == "primary key"]
    assert "(person, day)" in primary["definition"]


@pytest.mark.parametrize(("name", "kind"), [("adults", "view"), ("summary", "materialized view")])
async def test_a_view_tells_its_columns_and_definition(crm: Serve, name: str, kind: str) -> None:
    view = await details(crm, name, object_type="view")
    assert view["type"] == kind
    assert view["columns"]
    assert "crm.people" in view["definition"]


async def test_a_sequence_tells_its_figures(crm: Serve) -> None:
    sequence = await details(crm, "tickets", object_type="sequence")
    assert sequence["type"] == "sequence"
    assert sequence["increment"] == 5
    assert sequence["start"] == 100
    assert sequence["maximum"] == 1000
    assert sequence["cycle"] is True
    assert "last_value" not in sequence
    await crm.sql("SELECT nextval('crm.tickets')")
    assert (await details(crm, "tickets", object_type="sequence"))["last_value"] == 100


async def test_an_extension_tells_its_version(crm: Serve) -> None:
    extension = await details(crm, "plpgsql", object_type="extension")
    assert extension["type"] == "extension"
    assert extension["version"]
    assert extension["schema"] == "pg_catalog"


async def test_names_are_taken_as_they_are(crm: Serve) -> None:
    odd = await details(crm, 'Odd "name" 😀')
    assert [column["name"] for column in odd["columns"]] == ["select"]


async def test_a_table_without_columns_has_none(crm: Serve) -> None:
    assert (await details(crm, "empty"))["columns"] == []


async def test_a_system_table_can_be_looked_at(crm: Serve) -> None:
    catalog = await details(crm, "pg_class", schema_name="pg_catalog")
    assert "relname" in by_name(catalog["columns"])


@pytest.mark.parametrize(
    "arguments",
    [
        {"object_name": "nobody"},
        {"object_name": "nobody", "object_type": "view"},
        {"object_name": "nobody", "object_type": "sequence"},
        {"object_name": "nobody", "object_type": "extension"},
        {"object_name": "people", "schema_name": "nowhere"},
        {"object_name": "PEOPLE"},
        {"object_name": "people; DROP TABLE crm.people"},
        {"object_name": "people' OR 'a'='a"},
    ],
)
async def test_what_does_not_exist_is_an_error_with_a_next_step(crm: Serve, arguments: dict[str, Any]) -> None:
    answer = await crm.call("get_object_details", **({"schema_name": "crm"} | arguments))
    assert answer.code in ("sql_error", "invalid_argument")
    assert arguments["object_name"] in answer.error["message"]
    assert "list_objects" in answer.error["hint"]


@pytest.mark.parametrize(
    ("name", "object_type"), [("tickets", "table"), ("adults", "sequence"), ("people", "view"), ("people", "sequence")]
)
async def test_what_is_of_another_type_is_not_called_by_the_wrong_one(crm: Serve, name: str, object_type: str) -> None:
    answer = await crm.call("get_object_details", schema_name="crm", object_name=name, object_type=object_type)
    if answer.is_error:
        assert answer.error["hint"]
    else:
        assert answer.fields["type"] != object_type


async def test_what_an_agent_made_does_not_run_when_its_objects_are_described(crm: Serve) -> None:
    """Operators, functions and tables of the agent's own, named as Postgres's, are not used by our catalog reads."""
    await crm.call(
        "execute_transaction",
        statements=[
            {"sql": "CREATE TABLE public.pg_class (relname name, relkind text)"},
            {
                "sql": "CREATE FUNCTION public.format_type(oid, integer) RETURNS text LANGUAGE sql AS"
                " $$ SELECT 'hijacked' $$"
            },
            {
                "sql": "CREATE FUNCTION public.same(name, name) RETURNS boolean LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE 'hijacked'; END $$"
            },
            {"sql": "CREATE OPERATOR public.= (LEFTARG = name, RIGHTARG = name, FUNCTION = public.same)"},
        ],
    )
    assert by_name((await details(crm, "people"))["columns"])["id"]["type"] == "integer"
    assert "people" in by_name((await crm.call("list_objects", schema_name="crm")).fields["objects"])
