"""What goes wrong on the way to an object store, at every request: the right result or an error, and nothing lost.

Every request meets some of the faults; all of them with ``OBJECT_FAULTS=all`` (``make torture-s3``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import numpy as np
import pytest
from conftest import add_fields, deadline, field
from objectstore import FAULTS, Place

import atlas
from atlas.storage import conditions, requests

DEADLINE = 1
ALL = os.environ.get("OBJECT_FAULTS") == "all"
LASTING = ("500", "timeout", "lost", "slowdown", "reset", "truncated")
NAMES = ["a", "b", "c"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(requests, "_ANSWER_SECONDS", 0.4)


@pytest.fixture
def given_up(monkeypatch) -> list[tuple[float, float]]:
    """When requests were begun that were given up, each after its deadline, and when they were."""
    times, insist = [], requests.Requests.insist

    async def noted(self, kind, *given, **options):
        begun = time.monotonic()
        try:
            return await insist(self, kind, *given, **options)
        except atlas.StorageError:
            times.append((begun, time.monotonic()))
            raise

    monkeypatch.setattr(requests.Requests, "insist", noted)
    return times


def one_after_the_other(times: list[tuple[float, float]]) -> int:
    """How many of them follow each other; others were made at the same time."""
    count, last = 0, 0.0
    for begun, ended in sorted(times, key=lambda span: span[1]):
        if begun >= last:
            count, last = count + 1, ended
    return count


class At:
    """Breaks the n-th request, or all from there on."""

    def __init__(self, number: int, fault: str, for_good: bool = False) -> None:
        self.left, self.fault, self.for_good = number, fault, for_good
        self.was_reached = False

    def __call__(self, request) -> str:
        self.left -= 1
        hit = self.left < 0 if self.for_good else self.left == -1
        self.was_reached |= hit
        return self.fault if hit else ""


def write(store: atlas.Atlas, names: list[str]) -> None:
    for i, name in enumerate(names):
        add_fields(store, name, i, "t", "u")


def expect(store: atlas.Atlas, names: list[str]) -> None:
    assert sorted(store.list_datasets()) == sorted(names)
    for array in ("t", "u") if names else ():
        for name, cells in zip(names, store.read_array_across(array, names), strict=True):
            np.testing.assert_array_equal(cells, field("abc".index(name[0])))


def made(place, store) -> atlas.Atlas:
    with store:
        write(store, ["a"])
    return place.open()


def create(place, store):
    # As the first thing that a process does.
    conditions._honours.clear()
    place.create()


def open_and_list(place, store):
    assert place.open(mode="r").list_datasets() == ["a"]


def read(place, store):
    np.testing.assert_array_equal(store.read_array_across_stacked("t", ["a"])[0], field(0))


def flush(place, store):
    store.flush()


def compact(place, store):
    store.compact()


STEPS = [open_and_list, read, flush, compact]
CHANGES = (create, flush, compact)


def prepared(place, step) -> atlas.Atlas | None:
    if step is create:
        return None
    store = made(place, place.create())
    if step is compact:
        for i, name in ((1, "b"), (2, "c")):
            add_fields(store, name, i, "t", "u")
            store.flush()
        return place.open()
    store = place.open()
    if step is flush:
        for i, name in ((1, "b"), (2, "c")):
            add_fields(store, name, i, "t", "u")
    return store


def after(step) -> list[str]:
    return [] if step is create else NAMES if step in CHANGES else ["a"]


def error_of(step, place, store) -> str:
    try:
        step(place, store)
    except atlas.AtlasError as error:
        return str(error)
    return ""


def nothing_is_left_over(place, store) -> None:
    """Whatever was interrupted, gc finds it."""
    store.gc(grace=0, unfinished=0)
    root = store._session.snapshot.root
    assert root.retired == ()
    assert set(place.objects()) == {"atlas.json", *(file.key for file in root.files)}


def at_every_request(server, numbers, faults, for_good=False) -> Iterator[tuple[Place, At]]:
    """Yield a place of its own and what breaks a request there, for one after the other, until there are no more.

    Each meets another fault, or all of them if all are wanted.
    """
    for number in numbers:
        for fault in faults if ALL else [faults[number % len(faults)]]:
            broken = At(number, fault, for_good)
            with server.anew() as place:
                yield place, broken
        if not broken.was_reached:
            break
    else:
        pytest.fail("there are more requests than were tried")
    assert number > 0


@pytest.mark.timeout(900 if ALL else 180)
@pytest.mark.parametrize("step", [create, *STEPS])
def test_one_request_fails_once(s3, step):
    if step is compact and not (s3.honours_conditions or ALL):
        pytest.skip("only in make torture-s3")
    for place, broken in at_every_request(s3, range(40), FAULTS):
        store = prepared(place, step)
        with place.proxy.failing(broken):
            step(place, store)
        expect(place.open(), after(step))
        if step in CHANGES:
            nothing_is_left_over(place, place.open())


@pytest.mark.timeout(900 if ALL else 180)
@pytest.mark.parametrize("step", STEPS)
def test_every_request_fails_from_some_time_on(moto, step, given_up):
    numbers = range(0, 40, 3 if step is compact and not ALL else 1)
    for place, broken in at_every_request(moto, numbers, LASTING, for_good=True):
        store = prepared(place, step)
        given_up.clear()
        with place.proxy.failing(broken), deadline(DEADLINE):
            said = error_of(step, place, store)
        # As many deadlines, one after the other, as docs/object-storage.md says.
        assert one_after_the_other(given_up) <= (3 if step in (flush, compact) else 2)
        # An answer without a body has none that could be cut off.
        assert said or not broken.was_reached or broken.fault == "truncated"
        assert "\n" not in said
        assert place.options["secret"] not in said
        seen = place.open().list_datasets()
        assert seen in ([["a"], after(step)] if said else [after(step)])
        expect(place.open(), seen)
        step(place, store)
        expect(place.open(), after(step))
        if step in CHANGES:
            nothing_is_left_over(place, place.open())


@pytest.mark.timeout(900 if ALL else 180)
def test_a_store_is_made_or_not_whatever_fails_from_some_time_on(moto):
    for place, broken in at_every_request(moto, range(20), LASTING, for_good=True):
        with place.proxy.failing(broken), deadline(DEADLINE):
            said = error_of(create, place, None)
        assert "\n" not in said
        if error_of(create, place, None):
            # The answer was lost, or it was made all the same: either way it is there, and empty.
            assert place.open().list_datasets() == []
        nothing_is_left_over(place, place.open())
