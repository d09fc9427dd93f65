"""S3 servers as processes of their own, on the loopback."""

from __future__ import annotations

import http.server
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

KEY, SECRET = "testing", "a-secret-of-the-tests"
REGION = "us-east-1"


def options(port: int) -> dict:
    """What s3fs needs to be told to use a server."""
    return {
        "key": KEY,
        "secret": SECRET,
        "endpoint_url": f"http://127.0.0.1:{port}",
        "client_kwargs": {"region_name": REGION},
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


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
def _running(command: list[str], port: int) -> Iterator[int]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("the server does not answer")


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


@contextmanager
def moto() -> Iterator[int]:
    """moto's server, which honours conditions; gives its port."""
    port = free_port()
    with _running([_program("moto_server"), "-H", "127.0.0.1", "-p", str(port)], port):
        yield port


@contextmanager
def rclone(directory: Path) -> Iterator[int]:
    """rclone's S3 server on a directory, which ignores conditions; gives its port."""
    os.makedirs(directory, exist_ok=True)
    port = free_port()
    command = [_program("rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}"]
    # Requests for ranges are not reads that may yet go on in order, which it would wait for.
    command += ["--vfs-cache-mode", "off", "--vfs-read-wait", "0", "--config", "", str(directory)]
    with _running(command, port):
        yield port
