"""Ways in and out that need no toolkit: sign-in, one-time links, files. Plain HTML under the strictest policy."""

from __future__ import annotations

from datetime import datetime
from html import escape
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Form, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from agentdb_mcp.errors import AgentDBError, NotAuthenticated, NotFound
from agentdb_mcp.execution import Sink, Statement
from agentdb_mcp.web.auth import Caller, service
from agentdb_mcp.web.errors import responses
from agentdb_mcp.web.explorer.headers import page_headers, set_cookie
from agentdb_mcp.web.explorer.session import COOKIE, Session
from agentdb_mcp.web.explorer.work import Explorer, Work
from agentdb_mcp.web.exporting import Export
from agentdb_mcp.web.shapes import Body, Identifier

STATIC = Path(__file__).parent / "static"
_FILES = {"explorer.css": "text/css", "sign-in.css": "text/css", "icon.svg": "image/svg+xml"}


class NewLink(Body):
    user_id: Identifier = Field(examples=["u1"])
    workspace_id: Identifier | None = Field(default=None, description="Show this workspace alone.", examples=["w1"])


class Link(BaseModel):
    """`url` signs in once, within two minutes."""

    url: str
    expires_at: datetime | None


def router(explorer: Explorer, *, https: bool) -> APIRouter:
    """Routes of `/explorer` beside its pages, and the one by which a backend makes links."""
    routes = APIRouter()
    ancestors = explorer.state.application.settings.frame_ancestors

    def shown(page: str, status: int = 200) -> Response:
        return HTMLResponse(page, status, page_headers(ancestors))

    def signed_in(session: Session, target: str, request: Request) -> Response:
        response = RedirectResponse(target, 303, page_headers(ancestors))
        value = explorer.sessions.cookie(session)
        set_cookie(response.headers, value, embedded=bool(ancestors), https=https or request.url.scheme == "https")
        return response

    @routes.post("/api/explorer/links", status_code=201, tags=["explorer"], responses=responses())
    async def create_link(given: NewLink, _: Annotated[Caller, Depends(service())], request: Request) -> Link:
        """Make a link that signs a user in to the explorer: once, within two minutes."""
        issued = await explorer.sessions.link(given.user_id, given.workspace_id)
        base = (explorer.state.public_url or str(request.base_url)).rstrip("/")
        return Link(url=link_url(base, issued.token.reveal()), expires_at=issued.expires_at)

    @routes.get("/explorer/enter", include_in_schema=False)
    async def enter(request: Request, link: Annotated[str, Query(max_length=200)] = "") -> Response:
        try:
            session = await explorer.sessions.enter(link, source=_source(request))
        except AgentDBError as error:
            if isinstance(error, NotAuthenticated):
                error = NotAuthenticated("This link was used before, or is too old.")
            return shown(sign_in_page(error), 401)
        return signed_in(session, "/explorer/", request)

    @routes.get("/explorer/sign-in", include_in_schema=False)
    async def sign_in_form(
        wanted: Annotated[str, Query(alias="next", max_length=4000)] = "/", ended: bool = False
    ) -> Response:
        note = NotAuthenticated("You were signed out, because nothing was done for a while or the session ended.")
        return shown(sign_in_page(note if ended else None, wanted))

    @routes.post("/explorer/sign-in", include_in_schema=False)
    async def sign_in(
        request: Request,
        token: Annotated[str, Form(max_length=200)] = "",
        wanted: Annotated[str, Form(alias="next", max_length=4000)] = "/",
    ) -> Response:
        try:
            session = await explorer.sessions.sign_in(token.strip(), source=_source(request))
        except AgentDBError as error:
            return shown(sign_in_page(error, wanted), 401)
        return signed_in(session, "/explorer" + _inside(wanted), request)

    @routes.post("/explorer/sign-out", include_in_schema=False)
    async def sign_out(request: Request) -> Response:
        session = await explorer.sessions.of(request.cookies.get(COOKIE))
        if session is not None:
            await explorer.sessions.sign_out(session)
        response = RedirectResponse("/explorer/sign-in", 303, page_headers(ancestors))
        set_cookie(response.headers, "", embedded=bool(ancestors), https=https or request.url.scheme == "https")
        return response

    @routes.get("/explorer/download/{key}", include_in_schema=False)
    async def download(key: str, request: Request) -> Response:
        session = await explorer.sessions.of(request.cookies.get(COOKIE))
        if session is None:
            raise NotAuthenticated("The session has ended.", hint="Sign in again.")
        ticket = explorer.redeem(key, session)
        work = Work(explorer, session)

        async def read(sink: Sink) -> None:
            async with work.calling():
                await work.queries.stream(ticket.place.tenant, ticket.place.scope, Statement(ticket.sql), sink)

        return Export(ticket.name, ticket.form, read)

    @routes.get("/explorer/static/{name}", include_in_schema=False)
    async def static(name: str) -> Response:
        if name not in _FILES:
            raise NotFound("There is no such file.")
        headers = {"cache-control": "no-cache", "x-content-type-options": "nosniff"}
        return FileResponse(STATIC / name, media_type=_FILES[name], headers=headers)

    return routes


def link_url(base: str, link: str) -> str:
    return f"{base}/explorer/enter?link={link}"


def _source(request: Request) -> str:
    return request.client.host if request.client else ""


def _inside(wanted: str) -> str:
    """A path of ours alone: nobody is sent elsewhere from here."""
    parts = urlsplit(wanted)
    inside = wanted.startswith("/") and not wanted.startswith(("//", "/\\")) and not parts.netloc
    return wanted if inside and wanted.isprintable() and "\\" not in wanted and ".." not in wanted else "/"


def sign_in_page(error: AgentDBError | None, wanted: str = "/") -> str:
    said = f'<p class="error" role="alert">{escape(error.message)}</p>' if error else ""
    return _PAGE.replace("{{error}}", said).replace("{{next}}", escape(wanted, quote=True))


_PAGE = (STATIC / "sign-in.html").read_text("utf-8")
