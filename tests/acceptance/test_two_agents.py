"""Two agents of one user: databases made at the same moment, their own, one shared, and walls between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import asyncpg
import pytest

from agentdb_mcp.local_stack import LocalStack

if TYPE_CHECKING:
    from tests.acceptance.conftest import Answer, Serve, ServeFactory

MARK = "f00d-only-alice-knows-this"
USER = "twins"


@dataclass
class Twins:
    """Two servers of one user that met no database when they started; what their first calls answered."""

    alice: Serve
    bob: Serve
    first: list[Answer]
    projects: list[str]


@pytest.fixture(scope="module")
async def twins(
    serve: ServeFactory, tenant: Callable[..., dict[str, str]], projects: Callable[[], Awaitable[list[str]]]
) -> AsyncIterator[Twins]:
    assert await projects() == []
    async with serve(tenant(USER, "alice"), greet=False) as alice, serve(tenant(USER, "bob"), greet=False) as bob:

        async def begin(server: Serve) -> None:
            await server.initialize()
            sent = [
                await server.send_call("execute_sql", sql="SELECT current_database()", database=scope)
                for scope in ("agent", "global", "agent", "global")
            ]
            answers[server.pid] = [await server.receive_answer("execute_sql", request) for request in sent]

        answers: dict[int, list[Answer]] = {}
        async with anyio.create_task_group() as group:
            group.start_soon(begin, alice)
            group.start_soon(begin, bob)
        yield Twins(alice, bob, answers[alice.pid] + answers[bob.pid], await projects())


async def test_each_gets_one_project_and_both_get_one_global_project(twins: Twins) -> None:
    assert [answer.text for answer in twins.first if answer.is_error] == []
    assert twins.projects == ["agent-alice", "agent-bob", "global-twins"]
    names = [answer.rows[0][0] for answer in twins.first]
    alice, shared, bob = names[0], names[1], names[4]
    assert names == [alice, shared] * 2 + [bob, shared] * 2
    assert len({alice, bob, shared}) == 3


async def test_three_servers_of_one_tenant_make_one_project(
    serve: ServeFactory, tenant: Callable[..., dict[str, str]], projects: Callable[[], Awaitable[list[str]]]
) -> None:
    names: list[str] = []

    async def begin() -> None:
        async with serve(tenant("crowd", "crowded")) as server:
            sent = [await server.send_call("execute_sql", sql="SELECT current_database()") for _ in range(5)]
            names.extend([(await server.receive_answer("execute_sql", request)).rows[0][0] for request in sent])

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(begin)
    assert len(names) == 15
    assert len(set(names)) == 1
    assert [name for name in await projects() if "crowd" in name] == ["agent-crowded"]


@pytest.fixture(scope="module")
async def secret(twins: Twins) -> Twins:
    """What Alice has and Bob wants: a table, a function, a large object."""
    alice, bob = twins.alice, twins.bob
    await alice.sql("CREATE TABLE treasure (id int PRIMARY KEY, word text)")
    await alice.sql("INSERT INTO treasure VALUES (1, $1)", MARK)
    await alice.sql(f"CREATE FUNCTION whisper() RETURNS text LANGUAGE sql AS $$ SELECT '{MARK}'::text $$")
    await alice.call("execute_sql", sql=f"SELECT lo_from_bytea(424242, '{MARK}')")
    await bob.sql("CREATE TABLE treasure (id int PRIMARY KEY, word text)")
    await bob.sql("INSERT INTO treasure VALUES (1, 'bob')")
    return twins


async def test_tables_of_the_same_name_are_different_tables(secret: Twins) -> None:
    assert (await secret.alice.sql("SELECT word FROM treasure")).rows == [[MARK]]
    assert (await secret.bob.sql("SELECT word FROM treasure")).rows == [["bob"]]


async def test_both_read_and_change_the_global_tables(secret: Twins) -> None:
    alice, bob = secret.alice, secret.bob
    await alice.sql("CREATE TABLE facts (topic text PRIMARY KEY, fact text)", database="global")
    await bob.sql("INSERT INTO facts VALUES ('sky', 'blue')", database="global")
    await alice.sql("UPDATE facts SET fact = 'grey' WHERE topic = 'sky'", database="global")
    await bob.sql("ALTER TABLE facts ADD COLUMN by text DEFAULT 'bob'", database="global")
    assert (await bob.sql("SELECT * FROM facts", database="global")).rows == [["sky", "grey", "bob"]]
    listed = await alice.call("list_objects", database="global")
    assert [item["name"] for item in listed.fields["objects"]] == ["facts"]
    assert (await alice.sql("SELECT to_regclass('facts')")).rows == [[None]]


async def test_another_user_s_global_database_is_another_one(
    secret: Twins, serve: ServeFactory, tenant: Callable[..., dict[str, str]]
) -> None:
    async with serve(tenant("stranger", "strange")) as stranger:
        theirs = (await stranger.sql("SELECT current_database()", database="global")).rows
        ours = (await secret.alice.sql("SELECT current_database()", database="global")).rows
        assert theirs != ours
        assert "facts" not in (await stranger.call("list_objects", database="global")).text


ATTEMPTS = [
    "SELECT * FROM {database}.public.treasure",
    "TABLE alice.public.treasure",
    "SELECT * FROM dblink('dbname={database} user={role}', 'SELECT word FROM treasure') AS t (word text)",
    "SELECT dblink_connect('host=127.0.0.1 port={port} dbname={database} user={role} password=x')",
    "CREATE EXTENSION dblink",
    "CREATE EXTENSION postgres_fdw",
    "CREATE EXTENSION file_fdw",
    "CREATE EXTENSION adminpack",
    "CREATE EXTENSION pageinspect",
    "CREATE EXTENSION plpython3u",
    "CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', dbname '{database}')",
    "CREATE FOREIGN DATA WRAPPER w",
    "CREATE USER MAPPING FOR CURRENT_USER SERVER s OPTIONS (user '{role}')",
    "IMPORT FOREIGN SCHEMA public FROM SERVER s INTO public",
    "SET ROLE {role}",
    "SET ROLE {admin}",
    "SET ROLE postgres",
    "SET SESSION AUTHORIZATION {role}",
    "SET LOCAL ROLE {admin}",
    "RESET ROLE",
    "SELECT set_config('role', '{role}', false)",
    "SELECT set_config('role', '{admin}', false)",
    "SELECT set_config('session_authorization', '{role}', false)",
    "GRANT {role} TO CURRENT_USER",
    "GRANT {admin} TO CURRENT_USER",
    "GRANT pg_read_all_data TO CURRENT_USER",
    "GRANT pg_read_server_files TO CURRENT_USER",
    "GRANT CONNECT ON DATABASE {database} TO CURRENT_USER",
    "ALTER ROLE {role} PASSWORD 'mine'",
    "ALTER ROLE {role} LOGIN",
    "ALTER ROLE {role} SET search_path = 'evil'",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE CURRENT_USER CREATEROLE",
    "CREATE ROLE mine LOGIN SUPERUSER",
    "DROP ROLE {role}",
    "DROP OWNED BY {role}",
    "REASSIGN OWNED BY {role} TO CURRENT_USER",
    "ALTER DATABASE {database} OWNER TO CURRENT_USER",
    "ALTER DATABASE {database} RENAME TO mine",
    "ALTER DATABASE {database} CONNECTION LIMIT 0",
    "ALTER DATABASE {database} SET default_transaction_read_only = on",
    "COMMENT ON DATABASE {database} IS 'bob was here'",
    "DROP DATABASE {database}",
    "DROP DATABASE {database} WITH (FORCE)",
    "CREATE DATABASE mine TEMPLATE {database}",
    "ALTER TABLE treasure SET TABLESPACE pg_global",
    "CREATE TABLESPACE mine LOCATION '/tmp'",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT pg_read_binary_file('global/pg_authid')",
    "SELECT pg_ls_dir('.')",
    "SELECT pg_ls_dir('base')",
    "SELECT pg_ls_waldir()",
    "SELECT pg_ls_logdir()",
    "SELECT pg_stat_file('postgresql.conf')",
    "SELECT pg_current_logfile()",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(424242, '/tmp/out')",
    "SELECT convert_from(lo_get(424242), 'UTF8')",
    "SELECT lo_unlink(424242)",
    "SELECT * FROM pg_largeobject",
    "COPY treasure FROM '/etc/passwd'",
    "COPY treasure TO '/tmp/out'",
    "COPY treasure TO PROGRAM 'cat'",
    "COPY treasure FROM PROGRAM 'id'",
    "COPY (SELECT 1) TO STDOUT",
    "LOAD '/tmp/evil.so'",
    "CREATE FUNCTION c() RETURNS int LANGUAGE c AS '/tmp/evil.so', 'f'",
    "CREATE FUNCTION i() RETURNS void LANGUAGE internal AS 'pg_reload_conf'",
    "CREATE LANGUAGE plperlu",
    "ALTER SYSTEM SET archive_command = 'cp %p /tmp'",
    "SELECT pg_reload_conf()",
    "SELECT pg_rotate_logfile()",
    "SELECT pg_switch_wal()",
    "SELECT pg_promote()",
    "CHECKPOINT",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'",
    "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'",
    "SELECT pg_terminate_backend({victim})",
    "SELECT query FROM pg_stat_activity",
    "SELECT * FROM pg_stat_get_activity({victim})",
    "SELECT query FROM pg_stat_statements",
    "SELECT * FROM pg_stat_statements(true)",
    "SELECT rolname, rolpassword FROM pg_authid",
    "SELECT * FROM pg_shadow",
    "SELECT * FROM pg_user_mapping",
    "SELECT * FROM pg_hba_file_rules",
    "SELECT * FROM pg_file_settings",
    "SELECT * FROM pg_db_role_setting",
    "SELECT * FROM pg_shdescription",
    "SELECT * FROM pg_subscription",
    "SELECT * FROM pg_replication_slots",
    "SELECT pg_create_logical_replication_slot('mine', 'pgoutput')",
    "SELECT pg_create_physical_replication_slot('mine')",
    "CREATE SUBSCRIPTION s CONNECTION 'dbname={database} user={role}' PUBLICATION p",
    "CREATE PUBLICATION p FOR ALL TABLES",
    "CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION f()",
    "SELECT database_to_xml(true, false, '')",
    "SELECT query_to_xml('SELECT * FROM {database}.public.treasure', true, false, '')",
    "SELECT pg_relation_filepath('pg_class')",
    "SELECT pg_export_snapshot()",
    "SELECT pg_log_backend_memory_contexts({victim})",
    "SELECT pg_database_size('{database}')",
    "UPDATE pg_database SET datallowconn = true",
    "UPDATE pg_authid SET rolsuper = true WHERE rolname = current_user",
    "INSERT INTO pg_auth_members VALUES (1, 1, 1, true)",
    "SECURITY LABEL ON ROLE {role} IS 'x'",
    "LISTEN everything",
    "DO $$ BEGIN PERFORM dblink_exec('dbname={database}', 'SELECT 1'); END $$",
]


@dataclass
class Names:
    """What only somebody outside knows: the worst case."""

    database: str
    role: str
    admin: str
    port: int
    victim: int


@pytest.fixture(scope="module")
async def outside(stack: LocalStack) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(stack.postgres.uri().reveal())
    yield connection
    await connection.close()


@pytest.fixture(scope="module")
async def names(secret: Twins, stack: LocalStack, outside: asyncpg.Connection) -> Names:
    ((database, role, victim),) = (
        await secret.alice.sql("SELECT current_database(), current_user, pg_backend_pid()")
    ).rows
    admin = await outside.fetchval("SELECT datdba::regrole::text FROM pg_database WHERE datname = $1", database)
    return Names(database, role, admin.strip('"'), stack.postgres.port, victim)


async def everything(connection: asyncpg.Connection) -> list[tuple[Any, ...]]:
    """Roles, memberships, databases and their settings: what no agent may change."""
    rows = [
        *await connection.fetch(
            "SELECT rolname, rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, rolcanlogin,"
            " rolconnlimit FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1"
        ),
        *await connection.fetch(
            "SELECT roleid::regrole::text, member::regrole::text FROM pg_auth_members ORDER BY 1, 2"
        ),
        *await connection.fetch(
            "SELECT datname, datdba, datallowconn, datconnlimit, datacl::text FROM pg_database ORDER BY 1"
        ),
        *await connection.fetch("SELECT spcname FROM pg_tablespace ORDER BY 1"),
        *await connection.fetch("SELECT name FROM pg_settings WHERE pending_restart"),
        *await connection.fetch("SELECT subname FROM pg_subscription"),
        *await connection.fetch("SELECT slot_name FROM pg_replication_slots"),
        *await connection.fetch("SELECT setdatabase::text, setconfig::text FROM pg_db_role_setting ORDER BY 1, 2"),
        *await connection.fetch("SELECT description FROM pg_shdescription WHERE description LIKE '%bob%'"),
    ]
    return [tuple(row) for row in rows]


async def test_no_sql_of_one_reaches_what_the_other_has(
    secret: Twins, names: Names, outside: asyncpg.Connection
) -> None:
    """Every attempt runs plainly, inside DO where no parser sees it, and with a transaction around it."""
    before = await everything(outside)
    sleeping = await secret.alice.send_call("execute_sql", sql=f"SELECT pg_sleep(5) /* {MARK} */")
    for attempt in ATTEMPTS:
        sql = attempt.format(**vars(names))
        hidden = f"DO $outer$ BEGIN EXECUTE $inner${sql}$inner$; END $outer$"
        returned = (
            "DO $outer$ DECLARE r record; found text := ''; BEGIN"
            f" FOR r IN EXECUTE $inner${sql}$inner$ LOOP found := found || r::text; END LOOP;"
            " RAISE EXCEPTION 'found: %', found; END $outer$"
        )
        for database in ("agent", "global"):
            for text in (sql, hidden, returned):
                answer = await secret.bob.call("execute_sql", sql=text, database=database)
                assert MARK not in answer.text, text
                assert answer.raw["content"], text
        answer = await secret.bob.call("execute_transaction", statements=[{"sql": hidden}, {"sql": "TABLE treasure"}])
        assert MARK not in answer.text, sql
    assert not (await secret.alice.receive_answer("execute_sql", sleeping)).is_error
    assert await everything(outside) == before
    assert (await secret.alice.sql("SELECT word, whisper() FROM treasure")).rows == [[MARK, MARK]]
    assert (await secret.alice.sql("SELECT pg_backend_pid()")).rows == [[names.victim]]
    assert (await secret.bob.sql("SELECT word FROM treasure")).rows == [["bob"]]


async def test_postgres_itself_lets_an_agent_into_one_database_and_no_other_role(
    secret: Twins, names: Names, outside: asyncpg.Connection
) -> None:
    role = (await secret.bob.sql("SELECT current_user")).rows[0][0]
    may = await outside.fetch(
        "SELECT datname FROM pg_database WHERE datallowconn AND has_database_privilege($1, datname, 'CONNECT')", role
    )
    assert [row["datname"] for row in may] == [(await secret.bob.sql("SELECT current_database()")).rows[0][0]]
    assert await outside.fetch("SELECT FROM pg_auth_members WHERE member = $1::regrole", role) == []
    flags = await outside.fetchrow(
        "SELECT rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication, rolcanlogin FROM pg_roles"
        " WHERE rolname = $1",
        role,
    )
    assert flags is not None
    assert not any(flags.values())


async def test_a_password_that_an_agent_gives_itself_opens_nothing(secret: Twins, stack: LocalStack) -> None:
    await secret.bob.call(
        "execute_sql",
        sql="DO $$ BEGIN EXECUTE format('ALTER ROLE %I PASSWORD %L', current_user, 'known-to-bob'); END $$",
    )
    ((database, role),) = (await secret.bob.sql("SELECT current_database(), current_user")).rows
    with pytest.raises(asyncpg.PostgresError):
        await asyncpg.connect(
            host="127.0.0.1", port=stack.postgres.port, user=role, password="known-to-bob", database=database
        )
    assert (await secret.bob.sql("SELECT 1")).rows == [[1]]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT datname FROM pg_database",
        "SELECT * FROM pg_roles",
        "SELECT oid::regrole::text FROM pg_authid",
        "SELECT refobjid::regrole::text FROM pg_shdepend",
        "SELECT description FROM pg_shdescription",
        "SELECT spcname FROM pg_tablespace",
        "SELECT * FROM pg_stat_activity",
        "SELECT * FROM pg_stat_database",
        "SELECT * FROM pg_db_role_setting",
        "SELECT i::oid::regrole::text FROM generate_series(16384, 16600) AS i",
    ],
)
async def test_what_shared_catalogs_show_tells_nothing_about_tenants(secret: Twins, sql: str) -> None:
    shown = (await secret.bob.call("execute_sql", sql=sql)).text
    for word in (USER, "alice", "stranger", "crowd"):
        assert word not in shown


async def test_a_trap_in_the_global_database_runs_with_no_more_than_the_caller_s_rights_there(secret: Twins) -> None:
    """A view of Alice's that Bob reads runs in the global database, where Bob's own tables are not."""
    await secret.alice.sql(
        "CREATE FUNCTION lure() RETURNS text LANGUAGE plpgsql AS"
        " $$ BEGIN RETURN (SELECT string_agg(word, ',') FROM treasure); END $$",
        database="global",
    )
    answer = await secret.bob.refused("SELECT lure()", database="global")
    assert answer.error["sqlstate"] == "42P01"
