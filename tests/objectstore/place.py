"""A prefix on a server, and what a test wants to know of it."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import atlas
from objectstore import servers
from objectstore.proxy import Proxy, Request

BUCKET = "bucket"


@dataclass
class Place:
    """A prefix in a bucket, reached through a proxy."""

    proxy: Proxy
    honours_conditions: bool
    prefix: str = ""

    @contextmanager
    def anew(self) -> Iterator[Place]:
        """Another prefix, where nothing is, with a proxy that leaves requests alone."""
        self.proxy.choose, self.proxy.latency, self.proxy.bandwidth = (lambda request: ""), 0.0, 0.0
        self.proxy.log.clear()
        yield replace(self, prefix=uuid.uuid4().hex[:8])

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}/{self.prefix}"

    @property
    def options(self) -> dict[str, Any]:
        return servers.options(self.proxy.port)

    @property
    def arguments(self) -> dict[str, Any]:
        """What opens a store here."""
        return {"storage_options": self.options, "single_writer": not self.honours_conditions}

    def create(self, **options: Any) -> atlas.Atlas:
        return atlas.Atlas.create(self.url, **self.arguments, **options)

    def open(self, **options: Any) -> atlas.Atlas:
        return atlas.Atlas.open(self.url, **self.arguments, **options)

    @contextmanager
    def recording(self) -> Iterator[list[Request]]:
        """The requests made inside, in order; without the removal of what tried the server, which nobody waits for."""
        found: list[Request] = []
        with self.proxy.recording() as made:
            yield found
        found += [request for request in made if request.method != "DELETE" or "/_probe/" not in request.key]

    def objects(self) -> list[str]:
        """The objects that are there, behind the proxy's back."""
        return sorted(
            path.partition(f"{self.prefix}/")[2] for path in self.filesystem().find(f"{BUCKET}/{self.prefix}")
        )

    def filesystem(self) -> Any:
        import s3fs

        found = s3fs.S3FileSystem(**servers.options(self.proxy.upstream))
        found.invalidate_cache()
        return found


def kinds(requests: list[Request]) -> dict[str, int]:
    """How many requests of each kind there were."""
    return dict(Counter(request.kind for request in requests))


@contextmanager
def places(directory: Path) -> Iterator[dict[str, Place]]:
    """Both servers with their proxies, while they run."""
    with ExitStack() as running:
        found = {}
        for name, server in (("moto", servers.moto()), ("rclone", servers.rclone(directory))):
            proxy = Proxy(running.enter_context(server)).start()
            running.callback(proxy.stop)
            place = found[name] = Place(proxy, name == "moto")
            place.filesystem().call_s3("create_bucket", Bucket=BUCKET)
        yield found
