"""Refusals in Neon's shape: `{request_id, code, message}`; and errors of the cluster."""

from __future__ import annotations

import uuid

import asyncpg
from starlette.responses import JSONResponse

# What the driver raises where the cluster is away; the last one, for a connection that ends at the wrong moment.
CLUSTER_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


class ClusterUnavailableError(Exception):
    """The cluster cannot be reached with the URI given, or another emulator serves it; says what, never where."""


class ApiError(Exception):
    """An answer that is not a success. The message is for the caller and never quotes a value it sent."""

    def __init__(self, status: int, message: str, code: str = "", headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.headers = headers or {}
        self.status = status
        self.message = message
        self.code = code


def bad_request(message: str) -> ApiError:
    return ApiError(400, message)


def not_found(what: str) -> ApiError:
    return ApiError(404, f"{what} not found")


def error_response(error: ApiError, request_id: str | None = None) -> JSONResponse:
    body = {"request_id": request_id or str(uuid.uuid4()), "code": error.code, "message": error.message}
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    return JSONResponse(body, status_code=error.status, headers={**headers, **error.headers})
