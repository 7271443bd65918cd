"""The control port, for tests: time, use, faults and the rate limit. It is not Neon's, needs no key, is off by default.

    GET    /clock                                     {"now"}
    POST   /clock      {"advance_seconds"}            {"now"}; what falls due in between has happened when it answers
                       {"set_to"}                     the same, to a moment that is not past
    POST   /consumption {"project_id", "hour", …}     204; one object, or a list of any length, all or nothing
    GET    /faults                                    {"faults": [...]}, each with its `hits`
    POST   /faults     {"method", "path", "status", "message", "code", "headers", "drop", "effect", "delay_before",
                        "delay_after", "times", "probability", "seed"}   201 and the fault; all fields are optional
    DELETE /faults     /faults/{id}                   204
    PUT    /rate-limit {"requests_per_minute"}        204; null lifts it

What falls due inside a jump of the clock happens as of its own moment: a compute that nothing uses falls asleep when
its timeout is over and costs nothing after it; a quota on time ends computes when it is used up. Storage of a jump is
booked by the size at its end, which is the size at its beginning, as no statement ends inside a jump.

`/consumption` adds use to a project's history as if it had been measured: it is published with the same lag and counts
against quotas in the month of `hour` (RFC 3339, whole, over). Numbers from 0, each optional: `compute_unit_seconds`,
`root_branch_byte_hours`, `child_branch_byte_hours`, `instant_restore_byte_hours`, `snapshot_byte_hours`, `sent_bytes`,
`private_sent_bytes`, `extra_branch_hours`. Deleted projects have a history, too.

`path` is what follows `/api/v2`, and `*` in it matches anything: `/projects/*/endpoints/*/start`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentdb_mcp.neon_emulator import bodies
from agentdb_mcp.neon_emulator.bodies import Fields
from agentdb_mcp.neon_emulator.errors import ApiError, bad_request, error_response
from agentdb_mcp.neon_emulator.faults import Faults, RateLimit
from agentdb_mcp.neon_emulator.injected import read_entries
from agentdb_mcp.neon_emulator.projects import Projects
from agentdb_mcp.neon_emulator.settling import settle
from agentdb_mcp.neon_emulator.usage import Entry

CONSUMPTION_BYTES = 64_000_000

Handler = Callable[[Request], Awaitable[Response]]


def _answering(handler: Handler) -> Handler:
    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except ApiError as error:
            return error_response(error)

    return answer


def _jump(body: Fields, now: datetime) -> timedelta:
    try:
        if "set_to" in body:
            by = datetime.fromisoformat(body["set_to"]) - now
        else:
            by = timedelta(seconds=body["advance_seconds"])
        now + by
    except (KeyError, TypeError, ValueError, OverflowError):
        raise bad_request(
            "the body must be {`advance_seconds`: number} or {`set_to`: date and time with its offset}"
        ) from None
    if by < timedelta(0):
        raise bad_request("the clock only goes forward")
    return by


async def _add_use(projects: Projects, entries: Sequence[Entry]) -> None:
    wanted = {entry.project_id for entry in entries}
    async with projects.computes.usage.lock, projects.pool.acquire() as connection:
        known = await connection.fetch(
            "SELECT id FROM project WHERE id = ANY($1) AND state <> 'creating'", list(wanted)
        )
        if missing := wanted - {record["id"] for record in known}:
            raise ApiError(404, f"`project_id`: {len(missing)} of {len(wanted)} projects do not exist")
        await projects.computes.usage.book(connection, entries)


def build_control(projects: Projects, faults: Faults, rate_limit: RateLimit) -> Starlette:
    async def clock(request: Request) -> Response:
        if request.method == "POST":
            projects.clock.advance(_jump(await bodies.json_body(request), projects.clock.now()))
            await settle(projects.computes)
            await projects.purge()
        return JSONResponse({"now": projects.clock.now().isoformat()})

    async def consumption(request: Request) -> Response:
        body = await bodies.json_value(request, most=CONSUMPTION_BYTES)
        await _add_use(projects, read_entries(body, projects.clock.now()))
        return Response(status_code=204)

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
            Route("/consumption", _answering(consumption), methods=["POST"]),
            Route("/faults", _answering(all_faults), methods=["GET", "POST", "DELETE"]),
            Route("/faults/{fault_id:int}", _answering(one_fault), methods=["DELETE"]),
            Route("/rate-limit", _answering(limit), methods=["PUT"]),
        ]
    )
