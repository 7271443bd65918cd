"""A platform's client before several servers: round robin, and the next one where a connection is refused."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx

from benchmarks.soak.house import Life, Program, now

LEGACY, MODERN = "2025-11-25", "2026-07-28"
META = {
    "io.modelcontextprotocol/protocolVersion": MODERN,
    "io.modelcontextprotocol/clientInfo": {"name": "soak", "version": "1"},
    "io.modelcontextprotocol/clientCapabilities": {},
}
LOST = "lost"
# What a call is told whose connection ended in its COMMIT: right while Postgres is restarted, and at no other time.
UNKNOWN = "it may have taken effect or not"
TIMEOUT_S = 60
# What gives access to a database, whosever it is.
ACCESS = re.compile(r"postgres(?:ql)?://[^\s/…]*:[^\s/…@]+@|SCRAM-SHA-256\$|PASSWORD '[^']|npg_|napi_", re.IGNORECASE)
KEPT = 16_384


@dataclass(frozen=True, slots=True)
class Answer:
    """`code` is None where it succeeded, `lost` where nobody knows; `life` is the process that answered."""

    code: str | None
    retryable: bool
    body: Any
    life: Life | None
    sent: datetime
    received: datetime
    said: str = ""

    @property
    def ok(self) -> bool:
        return self.code is None


@dataclass
class Ears:
    """Every answer: searched at once for what gives access, and kept for secrets that are known only later."""

    path: Path
    secrets: set[str] = field(default_factory=set, repr=False)
    leaks: list[str] = field(default_factory=list)
    heard: int = 0

    def __post_init__(self) -> None:
        self._file = self.path.open("w")

    def hear(self, text: str, what: str) -> None:
        self.heard += 1
        if ACCESS.search(text) or any(secret in text for secret in self.secrets):
            self.leaks.append(f"an answer to {what}")
        self._file.write(text if len(text) <= KEPT else text[: KEPT // 2] + text[-KEPT // 2 :])
        self._file.write("\n")

    def close(self) -> None:
        self._file.close()


@dataclass
class Figures:
    """What the clients saw, all together."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    mistakes: Counter[str] = field(default_factory=Counter)
    unknown: list[tuple[str, Answer]] = field(default_factory=list)
    calls: int = 0

    def note(self, what: str, answer: Answer, *expected: str) -> None:
        """`expected` are codes of errors that are right here."""
        self.calls += 1
        self.outcomes[what, answer.code or "ok"] += 1
        if UNKNOWN in answer.said:
            self.unknown.append((what, answer))
        elif not (answer.ok or answer.retryable or answer.code in expected):
            self.mistakes[f"{what}: {answer.code}: {answer.said[:200]}"] += 1

    def wrong(self, what: str) -> None:
        self.mistakes[what[:300]] += 1


class Client:
    """One caller's HTTP client; `turns` are shared, so that calls of all go around."""

    def __init__(self, servers: list[Program], turns: Iterator[int], ears: Ears, bearer: str) -> None:
        self._servers, self._turns, self._ears = servers, turns, ears
        headers = {"authorization": f"Bearer {bearer}", "accept": "application/json, text/event-stream"}
        self._http = httpx.AsyncClient(headers=headers, timeout=TIMEOUT_S, verify=False)
        self._numbers = itertools.count(1)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def tool(self, name: str, arguments: dict[str, Any]) -> Answer:
        """By turns as a plain call, and in the newest version, through the SDK."""
        number = next(self._numbers)
        params, headers = {"name": name, "arguments": arguments}, {"MCP-Protocol-Version": LEGACY}
        if number % 2:
            params |= {"_meta": META}
            headers = {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call", "Mcp-Name": name}
        message = {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}
        answer = await self._send("POST", "/mcp", name, json=message, headers=headers)
        return _of_tool(answer) if answer.ok else answer

    async def rest(self, method: str, path: str, body: Any = None, *, secret: bool = False) -> Answer:
        """`secret`: what is answered gives access, and is meant to."""
        return await self._send(method, path, f"{method} {path}", secret=secret, json=body)

    async def _send(self, method: str, path: str, what: str, *, secret: bool = False, **request: Any) -> Answer:
        sent = now()
        for _ in self._servers:
            server = self._servers[next(self._turns) % len(self._servers)]
            before = server.life
            try:
                response = await self._http.request(method, f"{server.url}{path}", **request)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue  # it was not sent
            except httpx.HTTPError as error:
                return Answer(LOST, True, None, before, sent, now(), type(error).__name__)
            if not secret:
                self._ears.hear(response.text, what)
            return _answer(response, before if server.life is before else None, sent)
        return Answer(LOST, True, None, None, sent, now(), "no server takes connections")


def _answer(response: httpx.Response, life: Life | None, sent: datetime) -> Answer:
    """`life` is None where the server was killed meanwhile: before it answered, or before the answer was read."""
    received = now()
    is_json = response.headers.get("content-type", "").startswith("application/json")
    body = json.loads(response.content) if is_json and response.content else response.text
    if response.is_success:
        return Answer(None, False, body, life, sent, received)
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return Answer(f"status {response.status_code}", False, body, life, sent, received, response.text)
    return Answer(str(error["code"]), error.get("retryable", False), body, life, sent, received, response.text)


def _of_tool(answer: Answer) -> Answer:
    """What is in the JSON-RPC message."""
    result = answer.body.get("result")
    if result is None:
        said = json.dumps(answer.body)
        return Answer("protocol", False, answer.body, answer.life, answer.sent, answer.received, said)
    content = result["structuredContent"]
    if not result.get("isError"):
        return Answer(None, False, content, answer.life, answer.sent, answer.received)
    error = content["error"]
    said = f"{error['message']} {error.get('hint') or ''}"
    return Answer(error["code"], error["retryable"], content, answer.life, answer.sent, answer.received, said)
