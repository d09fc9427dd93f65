"""Runs one system in its own environment: takes requests on stdin and answers on stdout, one JSON object a line.

Started by path with the module file of the system's adapter as its argument, so that nothing but the adapter is
imported. Clocks stop before anything is checked: digests are taken afterwards.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time


def load(path):
    spec = importlib.util.spec_from_file_location("adapter", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digest(parts):
    """Type, shape and a hash of the bytes of one array, or of a list of them."""
    import hashlib

    import numpy as np

    total = hashlib.sha256()
    for part in parts if isinstance(parts, list) else [parts]:
        total.update(f"{part.dtype.str}{part.shape}".encode())
        total.update(np.ascontiguousarray(part).reshape(-1).view("u1"))
    return total.hexdigest()


def sync(place):
    """Make the file system durable: the same terms for systems that sync their files themselves and that do not.

    One call, however many files there are; everything else was synced before the clock started.
    """
    import ctypes

    descriptor = os.open(place, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor):
            raise OSError(ctypes.get_errno(), "syncfs")
    finally:
        os.close(descriptor)


LACKING = {
    "ingest": "datasets of unequal shapes are no stacked array, and this harness stores them in no other way",
    "read_into": "it reads into new arrays only",
}


class Session:
    """An adapter and the store that it has open."""

    def __init__(self, adapter):
        self.adapter = adapter
        self.handle = None
        self.results = {}
        self.kept = {}

    def write(self, place, arrays, layout, codec):
        import numpy as np

        data = {name: np.load(path, mmap_mode="r") for name, path in arrays.items()}
        return self.timed_write(place, lambda: self.adapter.write(place, data, layout, codec))

    def ingest(self, place, files, codec):
        self.need("ingest")
        return self.timed_write(place, lambda: self.adapter.ingest(place, files, codec))

    def need(self, work):
        """Say plainly what is not done with a system."""
        if not hasattr(self.adapter, work):
            raise NotImplementedError(LACKING[work])

    def timed_write(self, place, work):
        os.sync()
        began = time.perf_counter()
        work()
        sync(place)
        return {"seconds": time.perf_counter() - began}

    def open(self, place, workers=None):
        self.handle = self.adapter.open_store(place, workers)
        return {}

    def read(self, arrays, shape=None):
        return self.timed_read(arrays, lambda array: self.adapter.read(self.handle, array, shape))

    def read_into(self, arrays):
        """Read into arrays that were there, and used, before."""
        import numpy as np

        self.need("read_into")
        for array, (shape, dtype) in arrays.items():
            if array not in self.kept:
                self.kept[array] = np.ones(shape, dtype)
        return self.timed_read(self.kept, self.read_kept)

    def read_kept(self, array):
        self.adapter.read_into(self.handle, array, self.kept[array])
        return self.kept[array]

    def read_each(self, arrays):
        return self.timed_read(arrays, lambda array: self.adapter.read_each(self.handle, array))

    def timed_read(self, arrays, read):
        began = time.perf_counter()
        self.results = {array: read(array) for array in arrays}
        seconds = time.perf_counter() - began
        # The monotonic clock is one for all processes of a machine: the harness knows when it started this one.
        return {"seconds": seconds, "at": time.clock_gettime(time.CLOCK_MONOTONIC)}

    def forget(self):
        """Drop the results of the last read, so that freeing them is on nobody's clock."""
        self.results = {}
        return {}

    def release(self):
        """Drop what was kept for reads, too."""
        self.kept = {}
        return self.forget()

    def digest(self):
        """Describe the results of the last read, and drop them."""
        digests = {array: digest(result) for array, result in self.results.items()}
        self.forget()
        return {"digests": digests}


def main():
    # What a library prints must not reach the harness as an answer.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def last_words(kind, error, trace):
        """Whatever a system raises becomes a row of the report; the process ends."""
        sys.__excepthook__(kind, error, trace)
        answers.write(json.dumps({"error": f"{kind.__name__}: {error}".strip().splitlines()[0]}) + "\n")

    sys.excepthook = last_words
    session = Session(load(sys.argv[1]))
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(session, request.pop("do"))(**request)
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
