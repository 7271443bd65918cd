"""The frame of every page, and what pages are made of: native elements with text, never HTML."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

import anyio
from nicegui import Client, ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement
from starlette.requests import Request

from agentdb_mcp.errors import AgentDBError, NotAuthenticated, RateLimited
from agentdb_mcp.models import Scope
from agentdb_mcp.web.explorer.files import versioned
from agentdb_mcp.web.explorer.guard import EXPLORER
from agentdb_mcp.web.explorer.ownership import SESSION
from agentdb_mcp.web.explorer.work import Place, Work

T = TypeVar("T")
BASE = "/explorer"
THEMES = {"light": False, "dark": True}
CHECK_S = 20.0
# A page waits so long for what it shows; what takes longer shows up in it later, by its socket.
AT_ONCE_S = 0.5
# Kept by browsers for good: a page waits for it before it paints.
_STYLE = f"{BASE}/static/{versioned('explorer.css')}"
_SET_THEME = "document.cookie = 'agentdb_theme={}; path=/explorer; max-age=31536000; SameSite=Lax'"


class Text(TextElement):
    """An element of HTML with a text in it."""

    def __init__(self, tag: str, text: str = "", classes: str = "", **attributes: str) -> None:
        super().__init__(tag=tag, text=text)
        self.classes(classes)
        for name, value in attributes.items():
            self.props[name.strip("_").replace("_", "-")] = value


def box(tag: str = "div", classes: str = "", **attributes: str) -> Element:
    """An element for others to stand in."""
    made = ui.element(tag).classes(classes)
    for name, value in attributes.items():
        made.props[name.strip("_").replace("_", "-")] = value
    return made


def button(label: str, on_click: Callable[..., Any], classes: str = "", **attributes: str) -> Text:
    made = Text("button", label, f"ax-button {classes}", type="button", **attributes)
    made.on("click", on_click, [])
    return made


def enable(element: Element, enabled: bool) -> None:
    """Whether a button may be pressed."""
    if enabled:
        element.props.pop("disabled", None)
    else:
        element.props["disabled"] = True
    element.update()


def link(label: str, path: str, classes: str = "", *, current: bool = False) -> Text:
    """To a page of the explorer's."""
    made = Text("a", label, classes, href=BASE + path)
    if current:
        made.props["aria-current"] = "page"
    return made


@dataclass(slots=True)
class Early(Generic[T]):
    """A read that may begin before it is asked for: the first call gives what that came to, others read anew."""

    read: Callable[[], Awaitable[T]]
    _begun: anyio.Event | None = None
    _found: tuple[T] | None = None
    _error: AgentDBError | None = None

    async def begin(self) -> bool:
        """Whether it succeeded."""
        self._begun = anyio.Event()
        try:
            self._found = (await self.read(),)
        except AgentDBError as error:
            self._error = error
        finally:
            self._begun.set()
        return self._error is None

    async def __call__(self) -> T:
        """Raises AgentDBError."""
        if self._begun is None:
            return await self.read()
        await self._begun.wait()
        found, error = self._found, self._error
        self._begun = self._found = self._error = None
        if error is not None:
            raise error
        return found[0] if found is not None else await self.read()


@dataclass(slots=True)
class View:
    """One page that is open: whose it is, and how it fails."""

    work: Work
    client: Client

    @asynccontextmanager
    async def early(self, *reads: Early[Any]) -> AsyncIterator[None]:
        """Begin to read, one after the other; the block is entered when all is there, or else the page in its browser.

        So a database that is awake is in the page from the start, and one that has to wake keeps nobody waiting.
        """
        done = anyio.Event()

        async def begin() -> None:
            with contextlib.suppress(AgentDBError):  # of the session, which whoever asks for the rest meets as well
                for each in reads:
                    if not await self.work.look(each.begin):
                        break
            done.set()

        async with anyio.create_task_group() as group:
            group.start_soon(begin)
            with anyio.move_on_after(AT_ONCE_S):
                await done.wait()
            if not done.is_set():
                await self.client.connected()
            yield

    async def attempt(self, work: Callable[[], Awaitable[T]], *, looking: bool = False) -> T | None:
        """What the work gives; None after telling the person what went wrong."""
        try:
            return await (self.work.look(work) if looking else self.work.do(work))
        except AgentDBError as error:
            self.tell(error)
            return None

    def tell(self, error: AgentDBError) -> None:
        if isinstance(error, NotAuthenticated):
            self.leave()
            return
        with self.client:
            ui.notify(said(error), type="negative", multi_line=True, close_button="Close", timeout=10_000)

    def leave(self) -> None:
        """To the sign-in: the session has ended."""
        with self.client:
            ui.navigate.to("/sign-in?ended=true")

    async def fill(
        self,
        place: Element,
        read: Callable[[], Awaitable[T]],
        show: Callable[[T], Any],
        retry: Callable[[], Any] | None = None,
    ) -> T | None:
        """Show that it is being read, then what was read, or why not. `retry` is for more than this alone."""
        place.clear()
        with place:
            loading()
        try:
            found = await self.work.look(read)
        except AgentDBError as error:
            if isinstance(error, NotAuthenticated):
                self.leave()
                return None
            place.clear()
            with place:
                problem(error, retry=retry or (lambda: self.fill(place, read, show)))
            return None
        place.clear()
        with place:
            show(found)
        return found


def view_of(request: Request, client: Client) -> View:
    work = Work(request.scope[EXPLORER], request.scope[SESSION])
    return View(work, client)


@contextmanager
def frame(view: View, title: str, current: str) -> Iterator[None]:
    """The page around its content. `current` is the part of the navigation that it belongs to."""
    request = view.client.request
    ui.page_title(f"{title} · Database Explorer")
    ui.add_head_html(f'<link rel="stylesheet" href="{_STYLE}">')
    dark = ui.dark_mode(THEMES.get(request.cookies.get("agentdb_theme", "")))
    if (slot := view.client.content.parent_slot) is not None:
        slot.parent.props["role"] = "presentation"  # the toolkit's own <main> holds the whole page
    Text("a", "Skip to the content", "ax-skip", href="#content")
    with box("header", "ax-top"):
        Text("a", "Database Explorer", "ax-brand", href=f"{BASE}/")
        with box("nav", "ax-nav", aria_label="Pages"):
            link("Overview", "/", current=current == "overview")
            link("Global", "/global", current=current == "global")
            link("Activity", "/activity", current=current == "activity")
        with box("div", "ax-who"):
            _theme(dark)
            Text("span", view.work.session.user_id, "ax-user", title="Signed in as")
            with box("form", method="post", action=f"{BASE}/sign-out"):
                Text("button", "Sign out", "ax-button quiet", type="submit")
    with box("main", "ax-main", id="content", tabindex="-1"):
        yield

    async def check() -> None:
        try:
            await view.work.explorer.sessions.check(view.work.session)
        except NotAuthenticated:
            view.leave()
        except AgentDBError:  # the control database is away: the next call tells
            return

    # Immediate, it would wait for the browser at once, which sends the page away before there is anything in it.
    ui.timer(CHECK_S, check, immediate=False)


def _theme(dark: ui.dark_mode) -> None:
    following = {None: True, True: False, False: None}
    names = {None: "Auto", True: "Dark", False: "Light"}

    def change() -> None:
        dark.value = following[dark.value]
        made.text = names[dark.value]
        made.props["aria-label"] = f"Theme: {names[dark.value]}"
        ui.run_javascript(_SET_THEME.format(names[dark.value].lower()))

    made = button(names[dark.value], change, "quiet ax-theme", aria_label=f"Theme: {names[dark.value]}", title="Theme")


@contextmanager
def database_frame(view: View, place: Place, tab: str) -> Iterator[None]:
    """A page of one database."""
    with frame(view, place.name, "global" if place.scope is Scope.GLOBAL else "agent"):
        with box("div", "ax-head"):
            with box("div", "ax-title"):
                Text("h1", place.name)
                Text("span", "shared by all agents" if place.scope is Scope.GLOBAL else "agent database", "ax-tag")
            with box("nav", "ax-tabs", aria_label="Database"):
                link("Tables", place.path, current=tab == "tables")
                link("SQL", f"{place.path}/sql", current=tab == "sql")
        yield


def loading() -> None:
    with box("div", "ax-loading", role="status"):
        Text("span", "Loading…", "ax-sr")
        for part in ("60%", "90%", "75%"):
            box("div", "ax-bone").style(f"width:{part}")


def empty(title: str, text: str) -> None:
    with box("div", "ax-empty"):
        Text("h2", title)
        Text("p", text)


def problem(error: AgentDBError, retry: Callable[..., Any] | None = None) -> None:
    """Why there is nothing to see, and what to do."""
    with box("div", "ax-problem", role="alert"):
        Text("h2", "This did not work")
        Text("p", error.message)
        if (hint := hint_of(error)) is not None:
            Text("p", hint, "muted")
        if retry is not None:
            button("Try again", retry)


def said(error: AgentDBError) -> str:
    message = error.message if error.message.endswith((".", "!", "?")) else error.message + "."
    hint = hint_of(error)
    return f"{message} {hint}" if hint else message


# Hints are written for agents, who have tools; a person has pages.
_FOR_PEOPLE = {
    "get_object_details": "The table's columns are on its page, under Structure.",
    "list_objects": "The tables are on the database's page.",
    "list_schemas": "The tables are on the database's page.",
    "execute_transaction": "Run one statement at a time: select it, then run it.",
    "get_budget": "The overview shows the budget.",
}


def hint_of(error: AgentDBError) -> str | None:
    """What a person may do next."""
    if error.code == RateLimited.code:
        return "Wait a few seconds, then try again."
    hint = error.hint
    return next((instead for tool, instead in _FOR_PEOPLE.items() if hint and tool in hint), hint)


def labelled(element: T, label: str) -> T:
    """With a name for screen readers."""
    cast(Element, element).props["aria-label"] = label
    return element
