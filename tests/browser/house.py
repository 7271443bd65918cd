"""The whole product in this process, with two users' data in it, and a browser beside it."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import httpx
from anyio.from_thread import BlockingPortal, start_blocking_portal

from agentdb_mcp.bootstrap import Application, open_application
from agentdb_mcp.execution import Statement
from agentdb_mcp.local_stack import LocalStack, local_stack
from agentdb_mcp.models import Scope, Tenant, TokenScope
from agentdb_mcp.settings import load_settings
from agentdb_mcp.web.app import HttpOptions, build_app
from agentdb_mcp.web.serving import serve

T = TypeVar("T")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
NASTY = '<img src=x onerror="window.pwned=1"><script>window.pwned=2</script>&amp;{{7*7}}${7*7}`'
NASTY_NAME = '<b onmouseover="window.pwned=3">x</b>"\'&lt;'


@dataclass
class House:
    """`call` runs something in the server's event loop."""

    url: str
    application: Application
    portal: BlockingPortal
    stack: LocalStack
    explorer: Any

    def call(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        return self.portal.call(work, *args)

    def sql(
        self, sql: str, *params: object, workspace: str | None = "research", user: str = "ada"
    ) -> list[list[object]]:
        """As an agent."""
        scope = Scope.AGENT if workspace else Scope.GLOBAL

        async def run() -> list[list[object]]:
            tenant = Tenant(user, workspace)
            answer = await self.application.queries.execute(tenant, scope, [Statement(sql, params)])
            return answer.results[0].rows

        return self.call(run)

    def fill(self, *statements: str, user: str = "ada", workspace: str = "research") -> None:
        """As the agent's role, past the product and its limits: tables that are too large to be made by calls."""

        async def run() -> None:
            rows = await self.application.managed().lifecycle.databases.of_user(user)
            row = next(each for each in rows if each.owner_id == workspace)
            connection = await asyncpg.connect(self.stack.postgres.uri(row.database_name or "").reveal())
            try:
                await connection.execute(f'SET ROLE "{row.role_name}"')
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close()

        self.call(run)

    def fail(self, **fault: Any) -> None:
        """Have the local Neon API fail; `heal` ends it."""
        httpx.post(f"{self.stack.emulator.control_url}/faults", json=fault, timeout=60).raise_for_status()

    def heal(self) -> None:
        httpx.delete(f"{self.stack.emulator.control_url}/faults", timeout=60).raise_for_status()

    def link(self, user: str = "ada", workspace: str | None = None) -> str:
        """One that signs in."""

        async def make() -> str:
            sessions = self.explorer.sessions
            return (await sessions.link(user, workspace)).token.reveal()

        return f"{self.url}/explorer/enter?link={self.call(make)}"

    def token(self, *scopes: TokenScope, user: str = "ada", workspace: str | None = None) -> tuple[str, str]:
        """(id, text)."""

        async def make() -> tuple[str, str]:
            issued = await self.application.managed().tokens.issue(user, workspace, scopes, 3600)
            return issued.id, issued.token.reveal()

        return self.call(make)


@asynccontextmanager
async def _serving(embedding: str, folder: Path, patience_s: float) -> AsyncIterator[tuple[Any, ...]]:
    async with local_stack(control=True) as stack:
        policy = folder / "policy.toml"
        policy.write_text('name = "house"\nversion = "1"\n[budget]\npaused_percent = 10000\n')
        environ = stack.environ() | {
            "AGENTDB_FRAME_ANCESTORS": embedding,
            "AGENTDB_POLICY": str(policy),
            "NEON_COMPUTE_PRICE_PER_CU_HOUR": "2",  # so that a minute of use can exceed a budget
        }
        async with open_application(load_settings(environ)) as application:
            lifecycle = application.managed().lifecycle
            for user, workspaces in (
                ("ada", {"research": "Research agent", "support": "Support agent"}),
                ("bob", {"shop": "Shop"}),
            ):
                await lifecycle.create_user(user)
                for workspace, name in workspaces.items():
                    await lifecycle.create_workspace(workspace, user, name)
            app = build_app(application, HttpOptions(patience_s=patience_s))
            async with serve(app, "127.0.0.1", 0) as url:
                yield url, application, stack, app.state.explorer


@contextlib.contextmanager
def house(embedding: str = "", patience_s: float = 30.0) -> Iterator[House]:
    with (
        tempfile.TemporaryDirectory() as folder,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(_serving(embedding, Path(folder), patience_s)) as served,
    ):
        url, application, stack, explorer = served
        made = House(url, application, portal, stack, explorer)
        furnish(made)
        yield made


def furnish(at: House) -> None:
    """Tables as agents make them, and what pages must stand."""
    at.sql(
        "CREATE TABLE papers (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, title text NOT NULL,"
        " authors text[], year integer CHECK (year > 1500), cited bigint DEFAULT 0, meta jsonb, scan bytea,"
        " read_at timestamptz, done boolean)"
    )
    at.sql("COMMENT ON TABLE papers IS 'Papers that the agent has read.'")
    at.sql("CREATE INDEX papers_year ON papers (year)")
    at.sql(
        "INSERT INTO papers (title, authors, year, cited, meta, scan, read_at, done)"
        " SELECT 'On the ' || (ARRAY['theory','practice','limits','origins','price'])[1 + n % 5] || ' of '"
        " || (ARRAY['agents','databases','memory','budgets'])[1 + n % 4] || ', part ' || n,"
        " ARRAY['Hopper', 'Liskov'], 1950 + n % 70, n * 37 % 1000,"
        " jsonb_build_object('pages', n % 40, 'open', n % 2 = 0), decode('89504e47', 'hex'),"
        " timestamptz '2026-01-01 08:00+00' + n * interval '3 hours',"
        " CASE WHEN n % 3 = 0 THEN NULL ELSE n % 2 = 0 END FROM generate_series(1, 340) AS n"
    )
    at.sql("CREATE TABLE claims (paper bigint REFERENCES papers, claim text, confidence numeric(4, 3))")
    at.sql("INSERT INTO claims SELECT n, 'claim ' || n, (n % 100) / 100.0 FROM generate_series(1, 200) AS n")
    at.sql("CREATE VIEW recent AS SELECT id, title, year FROM papers WHERE year > 2000")
    at.sql("CREATE TABLE tickets (id integer PRIMARY KEY, subject text)", workspace="support")
    at.sql("CREATE TABLE contacts (email text PRIMARY KEY, name text)", workspace=None)
    at.sql("INSERT INTO contacts VALUES ('ada@example.com', 'Ada'), ('grace@example.com', NULL)", workspace=None)
    for name in ("papers", "claims"):
        at.sql(f"ANALYZE {name}")


def nasty(at: House) -> None:
    """Names, comments and values full of HTML and script."""
    quoted = '"' + NASTY_NAME.replace('"', '""') + '"'
    at.sql(f"CREATE TABLE {quoted} (id integer PRIMARY KEY, {quoted} text)", workspace="support")
    literal = "'" + NASTY.replace("'", "''") + "'"
    at.sql(f"COMMENT ON TABLE {quoted} IS {literal}", workspace="support")
    at.sql(f"COMMENT ON COLUMN {quoted}.id IS {literal}", workspace="support")
    at.sql(f"INSERT INTO {quoted} VALUES (1, $1), (2, $2)", NASTY, NASTY * 40, workspace="support")


def artefacts() -> Path:
    folder = Path(__file__).parents[2] / "artefacts" / "browser"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
