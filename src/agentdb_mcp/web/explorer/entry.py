"""Ways in and out that need no toolkit: sign-in, one-time links, files. Plain HTML under the strictest policy."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Form, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from agentdb_mcp.errors import AgentDBError, NotAuthenticated, NotFound
from agentdb_mcp.execution import Sink
from agentdb_mcp.web.answers import like
from agentdb_mcp.web.auth import Caller, service
from agentdb_mcp.web.errors import responses
from agentdb_mcp.web.explorer.files import FOR_GOOD, STATIC
from agentdb_mcp.web.explorer.headers import page_headers, set_cookie
from agentdb_mcp.web.explorer.session import COOKIE, Session
from agentdb_mcp.web.explorer.work import Explorer, Work
from agentdb_mcp.web.exporting import Export
from agentdb_mcp.web.routes import GuardedRoute
from agentdb_mcp.web.shapes import Body, Identifier

_FILES = {"explorer.css": "text/css", "sign-in.css": "text/css", "icon.svg": "image/svg+xml"}


class NewLink(Body):
    model_config = like({"user_id": "u1", "workspace_id": "w1"})

    user_id: Identifier = Field(examples=["u1"])
    workspace_id: Identifier | None = Field(default=None, description="Show this workspace alone.", examples=["w1"])


class Link(BaseModel):
    """`url` signs in once, within two minutes."""

    model_config = like(
        {"url": "https://db.example.com/explorer/enter?link=adb_…", "expires_at": "2026-12-23T12:02:00+00:00"}
    )

    url: str
    expires_at: datetime | None


def router(explorer: Explorer, *, https: bool) -> APIRouter:
    """Routes of `/explorer` beside its pages, and the one by which a backend makes links."""
    entry = _Entry(explorer, https, bool(explorer.state.application.settings.frame_ancestors))
    routes = APIRouter()
    api = APIRouter(prefix="/api/explorer", tags=["explorer"], responses=responses(), route_class=GuardedRoute)
    api.add_api_route("/links", entry.create_link, methods=["POST"], status_code=201)
    routes.include_router(api)
    for method, path, route in (
        ("GET", "enter", entry.enter),
        ("GET", "sign-in", entry.sign_in_form),
        ("POST", "sign-in", entry.sign_in),
        ("POST", "sign-out", entry.sign_out),
        ("GET", "download/{key}", entry.download),
        ("GET", "static/{name}", _static),
    ):
        routes.add_api_route(f"/explorer/{path}", route, methods=[method], include_in_schema=False, response_model=None)
    return routes


@dataclass(frozen=True, slots=True)
class _Entry:
    explorer: Explorer
    https: bool
    embedded: bool

    async def create_link(self, given: NewLink, _: Annotated[Caller, Depends(service())], request: Request) -> Link:
        """Make a link that signs a user in to the explorer: once, within two minutes."""
        issued = await self.explorer.sessions.link(given.user_id, given.workspace_id)
        base = (self.explorer.state.public_url or str(request.base_url)).rstrip("/")
        return Link(url=link_url(base, issued.token.reveal()), expires_at=issued.expires_at)

    async def enter(self, request: Request, link: Annotated[str, Query(max_length=200)] = "") -> Response:
        try:
            session = await self.explorer.sessions.enter(link, source=_source(request))
        except NotAuthenticated:
            return self._shown(NotAuthenticated("This link was used before, or is too old."))
        except AgentDBError as error:
            return self._shown(error)
        return self._signed_in(session, "/explorer/", request)

    async def sign_in_form(
        self, wanted: Annotated[str, Query(alias="next", max_length=4000)] = "/", ended: bool = False
    ) -> Response:
        note = NotAuthenticated("You were signed out, because nothing was done for a while or the session ended.")
        return self._shown(note if ended else None, wanted, 200)

    async def sign_in(
        self,
        request: Request,
        token: Annotated[str, Form(max_length=200)] = "",
        wanted: Annotated[str, Form(alias="next", max_length=4000)] = "/",
    ) -> Response:
        try:
            session = await self.explorer.sessions.sign_in(token.strip(), source=_source(request))
        except AgentDBError as error:
            return self._shown(error, wanted, 401)
        return self._signed_in(session, "/explorer" + _inside(wanted), request)

    async def sign_out(self, request: Request) -> Response:
        session = await self.explorer.sessions.of(request.cookies.get(COOKIE))
        if session is not None:
            await self.explorer.sessions.sign_out(session)
        response = RedirectResponse("/explorer/sign-in", 303, self._headers())
        self._set_cookie(response, "", request)
        return response

    async def download(self, key: str, request: Request) -> Response:
        session = await self.explorer.sessions.of(request.cookies.get(COOKIE))
        if session is None:
            raise NotAuthenticated("The session has ended.", hint="Sign in again.")
        ticket = self.explorer.redeem(key, session)
        work = Work(self.explorer, session)

        async def read(sink: Sink) -> None:
            async with work.calling():
                await work.queries.stream(ticket.place.tenant, ticket.place.scope, ticket.statement, sink)

        return Export(ticket.name, ticket.form, read)

    def _headers(self) -> dict[str, str]:
        return page_headers(self.explorer.state.application.settings.frame_ancestors)

    def _shown(self, error: AgentDBError | None, wanted: str = "/", status: int | None = None) -> Response:
        page = sign_in_page(error, wanted)
        return HTMLResponse(page, status or (200 if error is None else 401), self._headers())

    def _signed_in(self, session: Session, target: str, request: Request) -> Response:
        response = RedirectResponse(target, 303, self._headers())
        self._set_cookie(response, self.explorer.sessions.cookie(session), request)
        return response

    def _set_cookie(self, response: Response, value: str, request: Request) -> None:
        https = self.https or request.url.scheme == "https"
        set_cookie(response.headers, value, embedded=self.embedded, https=https)


async def _static(name: str, version: Annotated[str, Query(alias="v", max_length=64)] = "") -> Response:
    if name not in _FILES:
        raise NotFound("There is no such file.")
    headers = {"cache-control": FOR_GOOD if version else "no-cache", "x-content-type-options": "nosniff"}
    return FileResponse(STATIC / name, media_type=_FILES[name], headers=headers)


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
