"""Processes of the command line, with pipes, an environment of their own and an exit code.

An interpreter that imports the product takes a second and a half of a core, which is most of what a process costs here.
`ForkServer` does that once and copies itself: what a copy runs is `python -m agentdb_mcp`, or `python -c` some program,
from there on, in a session of its own. That it starts from nothing is for the tests that use `fresh`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import IO, Any, Protocol

import anyio

MAX_LINE = 64 * 1024 * 1024
MAX_REQUEST = 128 * 1024
# `environ`, `arguments`, and a `program` or None for the command line.
Request = dict[str, Any]
IMPORTED = ("agentdb_mcp.cli", "agentdb_mcp.bootstrap", "agentdb_mcp.mcp_server.stdio")


class Process(Protocol):
    """What tests use of asyncio's."""

    stdin: asyncio.StreamWriter | None
    stdout: asyncio.StreamReader | None

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    async def wait(self) -> int: ...
    def send_signal(self, signal: int) -> None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...


Launch = Callable[..., AbstractAsyncContextManager[Process]]


def clean_environ(given: dict[str, str]) -> dict[str, str]:
    """An environment with nothing of ours but what is given."""
    ours = ("AGENT", "GLOBAL_DB", "NEON", "ENCRYPTION", "PG", "PYTHON")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | given


@contextlib.asynccontextmanager
async def fresh(environ: dict[str, str], log: Path, *arguments: str) -> AsyncIterator[Process]:
    """Run the command line in an interpreter of its own; whatever is left of it at the end is killed."""
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "agentdb_mcp",
            *arguments,
            env=clean_environ(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            limit=MAX_LINE,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        await _end(process)


async def _end(process: Process) -> None:
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        with anyio.move_on_after(5):
            await process.stdout.read()
        await process.wait()


class ForkServer:
    """Starts processes as copies of one that has imported the product."""

    def __init__(self) -> None:
        self._requests, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=clean_environ({}),
                stdin=subprocess.PIPE,  # what its copies get in the place of these are pipes too
                stdout=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )

    def close(self) -> None:
        self._requests.close()
        self._server.communicate(timeout=60)

    @contextlib.asynccontextmanager
    async def forked(
        self, environ: dict[str, str], log: Path, *arguments: str, program: str | None = None
    ) -> AsyncIterator[Process]:
        """Run the command line, or a program of the test's own; whatever is left of it at the end is killed."""
        with contextlib.ExitStack() as exits:
            stdin, to_stdin = _pipe(exits)
            from_stdout, stdout = _pipe(exits)
            log_file = exits.enter_context(log.open("ab"))
            ended, theirs = (exits.enter_context(end) for end in socket.socketpair())
            wanted = {"environ": clean_environ(environ), "arguments": arguments, "program": program}
            files = [stdin.fileno(), stdout.fileno(), log_file.fileno(), theirs.fileno()]
            socket.send_fds(self._requests, [json.dumps(wanted).encode()], files)
            for end in (stdin, stdout, log_file, theirs):
                end.close()
            process = await Forked.connect(to_stdin, from_stdout, ended)
            try:
                yield process
            finally:
                await _end(process)
                process.close()


def free_port() -> int:
    """For a program that is told its port: from below those that the kernel gives away while it starts."""
    for port in random.sample(range(10_000, 32_000), 100):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("all ports are taken")


def _pipe(exits: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    read, write = os.pipe()
    return exits.enter_context(os.fdopen(read, "rb", 0)), exits.enter_context(os.fdopen(write, "wb", 0))


class Forked:
    """A copy, which is the fork server's child: its exit code comes by a socket."""

    def __init__(self, pid: int, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        self.pid = pid
        self.stdin: asyncio.StreamWriter | None = stdin
        self.stdout: asyncio.StreamReader | None = stdout
        self._code: int | None = None
        self._waiting = anyio.Lock()

    @classmethod
    async def connect(cls, to_stdin: IO[bytes], from_stdout: IO[bytes], ended: socket.socket) -> Forked:
        loop = asyncio.get_running_loop()
        ended.setblocking(False)
        pid = _number(await loop.sock_recv(ended, 4))
        reader = asyncio.StreamReader(limit=MAX_LINE)
        output, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), from_stdout)
        nothing = asyncio.StreamReaderProtocol(asyncio.StreamReader())
        to, _ = await loop.connect_write_pipe(lambda: nothing, to_stdin)
        process = cls(pid, asyncio.StreamWriter(to, nothing, None, loop), reader)
        process._ended, process._output = ended, output
        return process

    _ended: socket.socket
    _output: asyncio.ReadTransport

    @property
    def returncode(self) -> int | None:
        if self._code is None:
            with contextlib.suppress(BlockingIOError):
                self._code = _number(self._ended.recv(4))
        return self._code

    async def wait(self) -> int:
        async with self._waiting:
            if self.returncode is None:
                self._code = _number(await asyncio.get_running_loop().sock_recv(self._ended, 4))
        assert self._code is not None
        return self._code

    def send_signal(self, signal: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, signal)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def close(self) -> None:
        self._output.close()


def _number(message: bytes) -> int:
    assert len(message) == 4, "the fork server ended"
    return int.from_bytes(message, "little", signed=True)


# --- the server -----------------------------------------------------------------------------------------------------


def copies(requests: socket.socket) -> Request:
    """Fork at every request. Returns in the copies alone, with what is to be run."""
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    running: dict[int, socket.socket] = {}
    while True:
        ready, _, _ = select.select([requests.fileno(), woken], [], [])
        if woken in ready:
            os.read(woken, 1024)
            _reap(running)
        if requests.fileno() not in ready:
            continue
        message, files, _, _ = socket.recv_fds(requests, MAX_REQUEST, 4)
        if not message:  # whoever asks has ended
            os._exit(0)
        told = socket.socket(fileno=files.pop())
        if pid := os.fork():
            running[pid] = told
            told.send(pid.to_bytes(4, "little", signed=True))
            for file in files:
                os.close(file)
            continue
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for end in (requests, told, *running.values()):
            end.close()
        for file in (woken, wake):
            os.close(file)
        request: Request = json.loads(message)
        _become(request, files)
        return request


def _reap(running: dict[int, socket.socket]) -> None:
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            with running.pop(found[0]) as told, contextlib.suppress(BrokenPipeError):
                told.send(os.waitstatus_to_exitcode(found[1]).to_bytes(4, "little", signed=True))


def _become(request: Request, files: list[int]) -> None:
    os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.argv[:] = ["-c", *request["arguments"]]


def _run(request: Request) -> None:
    if request["program"] is None:
        runpy.run_module("agentdb_mcp", run_name="__main__", alter_sys=True)
    else:
        exec(compile(request["program"], "<string>", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    for module in IMPORTED:
        importlib.import_module(module)
    assert threading.active_count() == 1, "threads do not survive a fork"
    _run(copies(socket.socket(fileno=int(sys.argv[1]))))
