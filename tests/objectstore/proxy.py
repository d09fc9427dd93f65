"""A proxy before an S3 server: it counts requests, takes time for them, and breaks the ones it is told to.

As a program it runs by itself, for benchmarks: ``python -m objectstore.proxy UPSTREAM_PORT [LATENCY [BANDWIDTH]]``.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit

PIECE = 256 << 10
END = b"\r\n\r\n"

FAULTS = ("500", "503", "slowdown", "timeout", "reset", "truncated", "range", "garbled", "lost", "lost-500")

_ERRORS = {
    # Not injected at every request: these are no accidents that may pass.
    "expired": (400, "ExpiredToken"),
    "forbidden": (403, "AccessDenied"),
    "conflict": (409, "OperationAborted"),
    "500": (500, "InternalError"),
    "lost-500": (500, "InternalError"),
    "501": (501, "NotImplemented"),
    "503": (503, "ServiceUnavailable"),
    "slowdown": (503, "SlowDown"),
}


@dataclass
class Request:
    """What was asked for, and what became of it."""

    number: int
    method: str
    key: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    status: int = 0
    fault: str = ""
    received: int = 0

    @property
    def range(self) -> str:
        return self.headers.get("range", "").removeprefix("bytes=")

    @property
    def is_conditional(self) -> bool:
        return "if-match" in self.headers or "if-none-match" in self.headers

    @property
    def kind(self) -> str:
        """The operation, in a word."""
        if "delete" in self.query:
            return "DELETE"
        if self.method == "GET" and ("list-type" in self.query or "/" not in self.key.strip("/")):
            return "LIST"
        return "CONDITIONAL PUT" if self.method == "PUT" and self.is_conditional else self.method

    def __str__(self) -> str:
        return f"{self.kind} {self.key} {self.range} {self.fault}".rstrip()


Choose = Callable[[Request], str]


@dataclass
class _Gate:
    """Lets requests pass by the group."""

    size: int
    patience: float
    of: Callable[[Request], bool]
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    alone: int = 0

    async def pass_(self) -> None:
        self.waiting.append(asyncio.get_running_loop().create_future())
        if len(self.waiting) == self.size:
            for other in self.waiting:
                other.set_result(None)
            self.waiting = []
        else:
            mine = self.waiting[-1]
            await asyncio.wait([mine], timeout=self.patience)
            if not mine.done():
                self.waiting.remove(mine)
                self.alone += 1


@dataclass
class Proxy:
    """Stands before a server on the loopback.

    Parameters
    ----------
    upstream : int
        The server's port.
    latency : float
        Seconds that every request waits.
    bandwidth : float
        Bytes a second, both ways and all connections together; 0 for as fast as it goes.
    partial : bool
        Whether answers to requests for parts say that they are such: rclone's do not, which some clients do not take.
    """

    upstream: int
    latency: float = 0.0
    bandwidth: float = 0.0
    partial: bool = False
    log: list[Request] = field(default_factory=list)
    port: int = 0
    # Says what happens to a request: the name of a fault, or nothing.
    choose: Choose = field(default=lambda request: "")
    _gate: _Gate | None = None
    _free_at: float = 0.0

    # ── for tests ────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def recording(self) -> Iterator[list[Request]]:
        """The requests made inside."""
        found: list[Request] = []
        begun = len(self.log)
        try:
            yield found
        finally:
            found += self.log[begun:]

    @contextmanager
    def failing(self, choose: Choose) -> Iterator[None]:
        """Break the requests that `choose` names a fault for."""
        before, self.choose = self.choose, choose
        try:
            yield
        finally:
            self.choose = before

    @contextmanager
    def gathering(
        self, size: int, patience: float = 20.0, of: Callable[[Request], bool] = lambda request: True
    ) -> Iterator[None]:
        """Hand requests on by the group of `size` that are made at once; fail if some waited in vain for others.

        Which requests that is about, `of` may say.
        """
        gate = self._gate = _Gate(size, patience, of)
        try:
            yield
        finally:
            self._gate = None
        assert not gate.alone, f"{gate.alone} requests were made without {size - 1} others beside them"

    def start(self) -> Proxy:
        """Serve from a thread of this process."""
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.serve(ready)), daemon=True, name="proxy")
        self._thread.start()
        ready.wait(60)
        return self

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    # ── the proxy ────────────────────────────────────────────────────────────────────────────

    async def serve(self, ready: threading.Event | None = None) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        self._tasks: set[asyncio.Task] = set()
        server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, limit=4 << 20)
        self.port = server.sockets[0].getsockname()[1]
        if ready is not None:
            ready.set()
        else:
            print(self.port, flush=True)
        await self._over.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        upstream = None
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self.upstream, limit=4 << 20)
            while await self._one(reader, writer, upstream):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            for stream in (writer, upstream and upstream[1]):
                if stream:
                    stream.close()

    async def _one(self, reader, writer, upstream) -> bool:
        """Hand one request on; whether the connection goes on."""
        head = await reader.readuntil(END)
        request = self._parse(head)
        self.log.append(request)
        request.fault = self.choose(request)
        if request.headers.get("expect", "").lower() == "100-continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = re.sub(rb"(?i)\r\nexpect:[^\r]*", b"", head)
        if self.latency:
            await asyncio.sleep(self.latency)
        if self._gate and self._gate.of(request):
            await self._gate.pass_()
        if request.fault == "reset":
            # Reset it is, instead of closed, when what lingers is not waited for.
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
            return False
        body = [piece async for piece in self._body(reader, request.headers, request.method)]
        if request.fault == "timeout":
            await asyncio.sleep(3600)
        if request.fault in _ERRORS and request.fault != "lost-500":
            return self._refuse(writer, request)
        if request.fault.startswith("without "):
            head = _without(request.fault.removeprefix("without "), head)
        upstream[1].write(head)
        for piece in body:
            upstream[1].write(piece)
            await upstream[1].drain()
        return await self._answer(upstream[0], writer, request)

    def _parse(self, head: bytes) -> Request:
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        pairs = (line.split(":", 1) for line in lines if line)
        headers = {name.lower(): value.strip() for name, value in pairs}
        url = urlsplit(target)
        return Request(len(self.log), method, unquote(url.path), parse_qs(url.query, keep_blank_values=True), headers)

    def _refuse(self, writer: asyncio.StreamWriter, request: Request) -> bool:
        status, code = _ERRORS[request.fault]
        request.status = status
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected: {code}</Message></Error>".encode()
        head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}"
        writer.write(head.encode() + END + (b"" if request.method == "HEAD" else text))
        return True

    async def _answer(self, reader, writer, request: Request) -> bool:
        head = await reader.readuntil(END)
        first, *lines = head.decode("latin-1").split("\r\n")
        request.status = int(first.split(" ")[1])
        headers = {n.lower(): v.strip() for n, v in (line.split(":", 1) for line in lines if line)}
        bare = request.method == "HEAD" or request.status in (204, 304)
        left = int(headers.get("content-length", 0)) // 2 if request.fault == "truncated" else None
        lost = request.fault in ("lost", "lost-500")
        if self.partial and "content-range" in headers:
            head = re.sub(rb"^HTTP/1.1 200 [^\r]*", b"HTTP/1.1 206 Partial Content", head)
        is_moved = request.fault == "range" and "content-range" in headers
        is_garbled = request.fault == "garbled" and request.kind == "GET" and request.status in (200, 206)
        is_chunked = request.fault == "chunked" and not bare and "content-length" in headers
        if is_chunked:
            head = _without("content-length", head).replace(END, b"\r\nTransfer-Encoding: chunked" + END)
        if not lost:
            writer.write(_moved_range(head) if is_moved else head)
        if not bare:
            async for piece in self._body(reader, headers, "ANSWER"):
                if is_moved:
                    piece = piece[1:] + piece[:1]
                if is_garbled:
                    middle, is_garbled = len(piece) // 2, False
                    piece = piece[:middle] + bytes([piece[middle] ^ 1]) + piece[middle + 1 :]
                request.received += len(piece)
                if left is not None:
                    piece, left = piece[:left], left - len(piece[:left])
                if is_chunked:
                    piece = b"%x\r\n%b\r\n" % (len(piece), piece)
                if not lost:
                    writer.write(piece)
                    await writer.drain()
            if is_chunked:
                writer.write(b"0\r\n\r\n")
        if request.fault == "lost-500":
            return self._refuse(writer, request)
        if request.fault == "lost":
            writer.transport.abort()
            return False
        if left is not None:
            await writer.drain()
            return False
        await writer.drain()
        return headers.get("connection", "").lower() != "close"

    async def _body(self, reader: asyncio.StreamReader, headers: dict[str, str], method: str):
        """The pieces of a body, as they are on the line, no faster than the bandwidth allows."""
        if "chunked" in headers.get("transfer-encoding", "").lower():
            while True:
                line = await reader.readuntil(b"\r\n")
                size = int(line.split(b";")[0], 16)
                yield line + await reader.readexactly(size + 2)
                if not size:
                    return
        left = int(headers.get("content-length", 0))
        while left:
            piece = await reader.read(min(left, PIECE))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            await self._spend(len(piece))
            yield piece

    async def _spend(self, size: int) -> None:
        if self.bandwidth:
            now = self._loop.time()
            self._free_at = max(self._free_at, now) + size / self.bandwidth
            # Short waits last longer than they should; they are left to add up.
            if self._free_at - now > 0.002:
                await asyncio.sleep(self._free_at - now)


def _moved_range(head: bytes) -> bytes:
    """Say of an answer that it is of the bytes behind those that were asked for."""

    def moved(match: re.Match[bytes]) -> bytes:
        first, last, size = (int(n) for n in match.groups())
        return b"bytes %d-%d/%d" % (first + 1, last + 1, max(size, last + 2))

    return re.sub(rb"bytes (\d+)-(\d+)/(\d+)", moved, head)


def _without(name: str, head: bytes) -> bytes:
    return re.sub(rb"(?i)\r\n%b:[^\r]*" % name.encode(), b"", head)


def main() -> None:
    """Serve until the standard input ends."""
    port, *rates = sys.argv[1:]
    proxy = Proxy(int(port), *map(float, rates), partial=True)

    async def run() -> None:
        serving = asyncio.create_task(proxy.serve())
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
        proxy._over.set()
        with suppress(asyncio.CancelledError):
            await serving

    asyncio.run(run())


if __name__ == "__main__":
    main()
