"""Routes that know who calls before they read a body, and read JSON that means one thing to everybody."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from agentdb_mcp.web.auth import Allowed


class GuardedRoute(APIRoute):
    """A route that says in the OpenAPI document who may call it, and holds to that first."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401  (as APIRoute has them)
        super().__init__(*args, **options)
        allowed = _allowed(self.dependant)
        if allowed is not None:
            self.openapi_extra = {"security": _security(allowed)} | (self.openapi_extra or {})

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        allowed = _allowed(self.dependant)

        async def guarded(request: Request) -> Response:
            if allowed is not None:
                await allowed(request)
            return await handle(_Request(request.scope, request.receive))

        return guarded


class _Request(Request):
    """Its JSON has no key twice, of which others might read the other one, and no NaN, which is not JSON."""

    async def json(self) -> Any:  # noqa: ANN401  (it is what was sent)
        body = await self.body()
        try:
            return json.loads(body, object_pairs_hook=_unique, parse_constant=_refuse)
        except RecursionError:
            raise json.JSONDecodeError("It is nested too deeply", "", 0) from None
        except UnicodeDecodeError:
            raise json.JSONDecodeError("It is not UTF-8", "", 0) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise json.JSONDecodeError("A key is there twice", "", 0)
    return found


def _refuse(_: str) -> None:
    raise json.JSONDecodeError("NaN and Infinity are no JSON", "", 0)


def _allowed(dependant: Dependant) -> Allowed | None:
    """Found wherever it is among what the route depends on."""
    for each in dependant.dependencies:
        if isinstance(each.call, Allowed):
            return each.call
        if (found := _allowed(each)) is not None:
            return found
    return None


def _security(allowed: Allowed) -> list[dict[str, list[str]]]:
    """Each entry is one way that suffices."""
    ways: list[dict[str, list[str]]] = []
    if allowed.service:
        ways += [{"serviceKey": []}, {"internalApiKey": []}]
    return ways + [{"token": [str(scope)]} for scope in allowed.scopes]
