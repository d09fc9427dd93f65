"""S3 servers as processes of their own, on the loopback."""

from __future__ import annotations

import http.server
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

KEY, SECRET = "testing", "a-secret-of-the-tests"
REGION = "us-east-1"

_ADDRESS = re.compile(rb"http://127\.0\.0\.1:(\d+)[^\d]")


def options(port: int) -> dict:
    """What s3fs needs to be told to use a server."""
    return {
        "key": KEY,
        "secret": SECRET,
        "endpoint_url": f"http://127.0.0.1:{port}",
        "client_kwargs": {"region_name": REGION},
    }


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args) -> None:
        """Say nothing."""


@contextmanager
def web(directory: Path) -> Iterator[int]:
    """A plain web server of a directory, which knows no ranges, in a thread of this process; its port."""
    handler = partial(_Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server.server_port
        finally:
            server.shutdown()


@contextmanager
def _running(command: list[str]) -> Iterator[int]:
    """A server that was told to take any port, and says which one it took: one picked here may be gone by then."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            yield _port(process, said.fileno())
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(process: subprocess.Popen, said: int) -> int:
    for _ in range(600):
        # Not by the position in the file, which is the server's.
        found = _ADDRESS.search(os.pread(said, 1 << 20, 0))
        if found:
            return int(found[1])
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        time.sleep(0.1)
    raise RuntimeError("the server does not say where it is")


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


@contextmanager
def moto() -> Iterator[int]:
    """moto's server, which honours conditions; gives its port."""
    with _running([_program("moto_server"), "-H", "127.0.0.1", "-p", "0"]) as port:
        yield port


@contextmanager
def rclone(directory: Path) -> Iterator[int]:
    """rclone's S3 server on a directory, which ignores conditions; gives its port."""
    os.makedirs(directory, exist_ok=True)
    command = [_program("rclone"), "serve", "s3", "--addr", "127.0.0.1:0", "--auth-key", f"{KEY},{SECRET}"]
    # Requests for ranges are not reads that may yet go on in order, which it would wait for.
    command += ["--vfs-cache-mode", "off", "--vfs-read-wait", "0", "--config", "", str(directory)]
    with _running(command) as port:
        yield port
