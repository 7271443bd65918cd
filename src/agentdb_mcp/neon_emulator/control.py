"""The control port, for tests: time, faults and the rate limit. It is not Neon's, needs no key and is off by default.

    GET    /clock                                     {"now"}
    POST   /clock      {"advance_seconds"}            {"now"}; what falls due in between has happened when it answers
    GET    /faults                                    {"faults": [...]}, each with its `hits`
    POST   /faults     {"method", "path", "status", "message", "code", "headers", "drop", "effect", "delay_before",
                        "delay_after", "times", "probability", "seed"}   201 and the fault; all fields are optional
    DELETE /faults     /faults/{id}                   204
    PUT    /rate-limit {"requests_per_minute"}        204; null lifts it

`path` is what follows `/api/v2`, and `*` in it matches anything: `/projects/*/endpoints/*/start`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentdb_mcp.neon_emulator import bodies
from agentdb_mcp.neon_emulator.errors import ApiError, bad_request, error_response
from agentdb_mcp.neon_emulator.faults import Faults, RateLimit
from agentdb_mcp.neon_emulator.projects import Projects

Handler = Callable[[Request], Awaitable[Response]]


def _answering(handler: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ApiError as error:
            return error_response(error)

    return answer


def build_control(projects: Projects, faults: Faults, rate_limit: RateLimit) -> Starlette:
    async def clock(request: Request) -> Response:
        if request.method == "POST":
            body = await bodies.json_body(request)
            try:
                projects.clock.advance(timedelta(seconds=body["advance_seconds"]))
            except (KeyError, TypeError, ValueError, OverflowError):
                raise bad_request("`advance_seconds` must be a number of seconds that is not negative") from None
            await projects.computes.settle()
            await projects.purge_expired()
        return JSONResponse({"now": projects.clock.now().isoformat()})

    async def all_faults(request: Request) -> Response:
        if request.method == "DELETE":
            faults.remove()
            return Response(status_code=204)
        if request.method == "POST":
            return JSONResponse(faults.add(await bodies.json_body(request)).as_fields(), status_code=201)
        return JSONResponse({"faults": [fault.as_fields() for fault in faults.all]})

    async def one_fault(request: Request) -> Response:
        faults.remove(request.path_params["fault_id"])
        return Response(status_code=204)

    async def limit(request: Request) -> Response:
        value = (await bodies.json_body(request)).get("requests_per_minute")
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise bad_request("`requests_per_minute` must be a whole number or null")
        rate_limit.per_minute = value
        return Response(status_code=204)

    return Starlette(
        routes=[
            Route("/clock", _answering(clock), methods=["GET", "POST"]),
            Route("/faults", _answering(all_faults), methods=["GET", "POST", "DELETE"]),
            Route("/faults/{fault_id:int}", _answering(one_fault), methods=["DELETE"]),
            Route("/rate-limit", _answering(limit), methods=["PUT"]),
        ]
    )
