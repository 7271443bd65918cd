"""One error shape for every route, as `ErrorDetail` below."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException

from agentdb_mcp.errors import (
    AgentDBError,
    BudgetExceeded,
    DatabaseUnavailable,
    Internal,
    InvalidArgument,
    NotAllowed,
    NotAuthenticated,
    NotFound,
    ProvisioningFailed,
    RateLimited,
    ResultTooLarge,
    SqlError,
    StatementRefused,
    StatementTimeout,
)
from agentdb_mcp.logs import get_logger

log = get_logger(__name__)

STATUS: dict[type[AgentDBError], int] = {
    InvalidArgument: 400,
    NotAuthenticated: 401,
    BudgetExceeded: 402,
    NotAllowed: 403,
    StatementRefused: 403,
    NotFound: 404,
    ResultTooLarge: 413,
    SqlError: 422,
    RateLimited: 429,
    Internal: 500,
    ProvisioningFailed: 503,
    DatabaseUnavailable: 503,
    StatementTimeout: 504,
}
_SECONDS = re.compile(r"\bWait (\d+) s\b")


class ErrorDetail(BaseModel):
    """`code` is stable; `retryable` says whether the same call may succeed later."""

    code: str
    message: str
    hint: str | None = None
    retryable: bool = False
    sqlstate: str | None = None
    position: int | None = None
    context: str | None = None
    request_id: str


class ErrorAnswer(BaseModel):
    """What every route answers when it cannot do what it was asked."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "error": {
                        "code": "not_authenticated",
                        "message": "The token is not valid.",
                        "hint": "Ask whoever runs the platform for a new one.",
                        "retryable": False,
                        "request_id": "5f2c7b9a01d3e4f6",
                    }
                }
            ]
        }
    )

    error: ErrorDetail


def responses(*errors: type[AgentDBError]) -> dict[int | str, dict[str, Any]]:
    """For a route's documentation: what can go wrong there, beside what can go wrong anywhere."""
    anywhere: tuple[type[AgentDBError], ...] = (
        InvalidArgument,
        NotAuthenticated,
        NotAllowed,
        NotFound,
        ResultTooLarge,
        RateLimited,
        Internal,
    )
    statuses = sorted({STATUS[kind] for kind in (*anywhere, DatabaseUnavailable, *errors)})
    return {status: {"model": ErrorAnswer} for status in statuses}


def error_response(request: Request, error: AgentDBError) -> JSONResponse:
    status = next((found for kind, found in STATUS.items() if isinstance(error, kind)), 503)
    fields = {name: value for name, value in error.as_dict().items() if value is not None}
    headers = {}
    if isinstance(error, NotAuthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, RateLimited):
        headers["Retry-After"] = found[1] if (found := _SECONDS.search(error.hint or "")) else "1"
    return JSONResponse({"error": fields | {"request_id": request_id(request)}}, status, headers)


def request_id(request: Request) -> str:
    return str(request.scope.get("request_id", ""))


def install(app: FastAPI) -> None:
    """Turn what is raised anywhere below into that shape."""

    @app.exception_handler(AgentDBError)
    async def ours(request: Request, error: AgentDBError) -> JSONResponse:
        log.info("request failed", path=request.url.path, code=error.code, sqlstate=error.sqlstate)
        return error_response(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return error_response(request, _first_mistake(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        answer = error_response(request, _of_status(request, error.status_code))
        answer.status_code = error.status_code
        answer.headers.update(error.headers or {})
        return answer


def _first_mistake(error: RequestValidationError) -> InvalidArgument:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    if first["type"] == "json_invalid":
        return InvalidArgument("The body is not valid JSON.", hint="Send a JSON object with content-type json.")
    if first["type"] == "extra_forbidden":
        return InvalidArgument(f"There is no field {place[:80]!r}.", hint="/docs lists the fields of every route.")
    if first["type"] == "missing":
        return InvalidArgument(f"{place} is missing.", hint="/docs lists the fields of every route.")
    message = str(first["msg"])
    return InvalidArgument(f"{place[:80]}: {message[:1].lower()}{message[1:]}.", hint="/docs tells what it takes.")


def _of_status(request: Request, status: int) -> AgentDBError:
    if status == 404:
        return NotFound(f"There is nothing at {request.url.path[:200]}.", hint="/docs lists the routes.")
    if status == 405:
        return InvalidArgument(f"{request.method} is not for {request.url.path[:200]}.", hint="/docs lists the routes.")
    return InvalidArgument("The request cannot be read.", hint="/docs tells what each route takes.")
