"""Writers, a compactor, a collector and readers at one store on S3, behind a proxy that breaks requests.

Each is a process of its own: ``python -m torture.races ROLE NUMBER FLUSHES PLACE OVER OPTIONS``.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from objectstore import places

import atlas
from atlas.storage import requests

# Once each; a time-out would take the whole of an answer's time.
FAULTS = ("500", "slowdown", "reset", "truncated", "range", "garbled", "lost", "lost-500")

# Adversaries: what was replaced goes after seconds, and what nothing refers to at once, whoever may be about to.
GRACE, UNFINISHED = 3, 1

SHARED = "shared"
ARRAYS = ("t", "u")


def insist(call: Callable[[], Any]) -> Any:
    """Do it again as long as the server is to blame."""
    for _ in range(100):
        try:
            return call()
        except (atlas.StorageError, atlas.CorruptStore) as error:
            # Among so many requests one comes damaged twice in a row.
            failure = error
    raise failure


def number_of(name: str) -> int:
    writer, step = map(int, name.split("-"))
    return writer * 1000 + step


def stays(step: int, flushes: int) -> bool:
    """Whether the dataset of a step is not deleted by a later one."""
    return step % 5 != 1 or step + 3 >= flushes


def write(store: atlas.Atlas, number: int, flushes: int, over: Path) -> None:
    """Add datasets, each in a commit of its own, and delete some."""
    for step in range(flushes):
        view = store.create_dataset(f"{number}-{step}")
        for array in ARRAYS:
            view.define_array(array, "int32", ["x"], [50], [10])
            view.write_array(array, [0], np.full(50, number_of(view.name), "int32"))
        if step % 5 == 4:
            store.delete_dataset(f"{number}-{step - 3}")
        insist(store.flush)


def count(store: atlas.Atlas, number: int, flushes: int, over: Path) -> None:
    """Raise a counter that others raise, too: every commit that happens is one more, whatever is said of it."""
    own = f"by {number}"
    while (known := store.open_dataset(SHARED).attributes()).get(own, 0) < flushes:
        view = store.open_dataset(SHARED)
        view.set_attribute("count", known["count"] + 1)
        view.set_attribute(own, known.get(own, 0) + 1)
        try:
            insist(store.flush)
        except atlas.ConflictError:
            store._session.drop_pending()
        insist(store.refresh)


def compact(store: atlas.Atlas, number: int, flushes: int, over: Path) -> None:
    while not over.exists():
        insist(store.compact)
        time.sleep(random.uniform(0, 1))


def collect(store: atlas.Atlas, number: int, flushes: int, over: Path) -> None:
    while not over.exists():
        insist(lambda: store.gc(grace=GRACE, unfinished=UNFINISHED))
        time.sleep(random.uniform(0, 1))


def read(store: atlas.Atlas, number: int, flushes: int, over: Path) -> None:
    """Read everything, again and again."""
    while not over.exists():
        insist(store.refresh)
        names = [name for name in store.list_datasets() if name != SHARED]
        for array in ARRAYS if names else ():
            try:
                found = insist(partial(store.read_array_across_stacked, array, names))
            except atlas.SnapshotExpired:
                continue
            assert (found == np.array(list(map(number_of, names)))[:, None]).all()


ROLES = {"write": write, "count": count, "compact": compact, "collect": collect, "read": read}


def check(work: Path, writers: int, flushes: int, share: float) -> tuple[int, int, int]:
    """Have all of them race; return the requests, those that were broken, and the commits.

    Raises
    ------
    AssertionError
        If a commit is lost or counted twice, a reader sees anything wrong, or something is left that nobody finds.
    """
    rng, over, broken = random.Random(writers), work / "over", 0

    def choose(request: object) -> str:
        nonlocal broken
        is_broken = rng.random() < share
        broken += is_broken
        return rng.choice(FAULTS) if is_broken else ""

    with places(work / "rclone") as found, found["moto"].anew() as place:
        with place.create() as store:
            store.create_dataset(SHARED).set_attribute("count", 0)
        place.proxy.choose = choose
        options = json.dumps(place.options)

        def start(role: str, number: int) -> subprocess.Popen:
            arguments = [role, str(number), str(flushes), place.url, str(over), options]
            return subprocess.Popen([sys.executable, "-m", "torture.races", *arguments])

        busy = [start("write", number) for number in range(writers)] + [start("count", 100), start("count", 101)]
        others = [start(role, 0) for role in ("compact", "collect", "read", "read")]
        ended = [process.wait() for process in busy]
        over.touch()
        ended += [process.wait() for process in others]
        assert not any(ended), ended
        place.proxy.choose = lambda request: ""
        store = place.open()
        kept = [f"{number}-{step}" for number in range(writers) for step in range(flushes) if stays(step, flushes)]
        assert sorted(store.list_datasets()) == sorted([SHARED, *kept])
        counted = store.open_dataset(SHARED).get_attribute("count")
        assert counted == 2 * flushes, counted
        assert store.verify().ok
        for array in ARRAYS:
            cells = store.read_array_across_stacked(array, kept)
            assert (cells == np.array(list(map(number_of, kept)))[:, None]).all()
        store.gc(grace=0, unfinished=0)
        root = store._session.snapshot.root
        assert set(place.objects()) == {"atlas.json", *(file.key for file in root.files)}
        return len(place.proxy.log), broken, root.generation


def main(role: str, number: str, flushes: str, url: str, over: str, options: str) -> None:
    # Answers that are lost are not waited for as long as users would.
    requests._ANSWER_SECONDS = 3.0
    store = insist(lambda: atlas.Atlas.open(url, storage_options=json.loads(options)))
    ROLES[role](store, int(number), int(flushes), Path(over))


if __name__ == "__main__":
    main(*sys.argv[1:])
