"""The harness's end of a worker: start it, ask it, stop it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")


class WorkerFailed(Exception):
    """A system could not do what it was asked; the message is the first line of its error."""


class Worker:
    """A system's process, in a session of its own so that all of its children can be found and ended.

    Parameters
    ----------
    python : path
        Interpreter of the system's environment.
    adapter : path
    log : path
        Where its stderr goes.
    isolated : bool
        Whether it may see nothing but its own environment's packages.
    """

    def __init__(self, python: Path, adapter: Path, log: Path, isolated: bool = True) -> None:
        hidden = ("PYTHONPATH", "PYTHONHOME") if isolated else ()
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        with log.open("ab") as errors:
            self.started = time.clock_gettime(time.CLOCK_MONOTONIC)
            self._process = subprocess.Popen(
                [python, WORKER, adapter],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, limit: float, request: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to one request.

        Raises
        ------
        WorkerFailed
            If the system raised, died, or took more than `limit` seconds, after which it is stopped.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # its last words are still to be read
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        line = self._line(limit)
        if not line:
            self.stop()
            raise WorkerFailed(f"its process ended with status {self._process.returncode}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerFailed(answer["error"])
        return answer

    def _line(self, limit: float) -> bytes:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(limit):
                self.stop()
                raise WorkerFailed(f"took more than {limit:g} s")
        return self._process.stdout.readline()

    def stop(self) -> None:
        """End the process and its children."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
