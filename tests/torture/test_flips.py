"""Quick form of the damage campaign, and what verify says of damage."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import atlas
from atlas import indexes
from torture import flips
from torture.forging import Forgery
from torture.scenes import Share, cells, state_of

ENCODINGS = [(fmt, compression) for fmt in ("json", "msgpack") for compression in ("none", "zstd", "lz4")]


@pytest.mark.parametrize(("fmt", "compression"), ENCODINGS)
def test_damage_is_never_a_wrong_number(fmt, compression, tmp_path: Path):
    place = flips.small_store(tmp_path / "s", meta_format=fmt, meta_compression=compression)
    right = state_of(place)
    for key in flips.objects(place):
        data = (place / key).read_bytes()
        for damage in (*flips.bit_flips(data, 501), *flips.lengths(data, 211), *flips.tails(data)):
            flips.survive(place, key, damage, right)


def test_files_in_the_places_of_others(tmp_path: Path):
    place, other = flips.small_store(tmp_path / "s"), flips.small_store(tmp_path / "o", 3)
    right = state_of(place)
    for key, damage in flips.exchanges(place, other):
        # Nobody reads a record but who repairs.
        assert flips.survive(place, key, damage, right) == ("right" if key.endswith(".ar") else "refused")


def test_files_of_an_older_generation_in_their_places(tmp_path: Path):
    place = flips.small_store(tmp_path / "s")
    for key, damage in flips.stale(place):
        assert flips.survive(place, key, damage, state_of(place)) == ("right" if key.endswith(".ar") else "refused")


@pytest.mark.parametrize(("fmt", "compression"), ENCODINGS)
def test_verify_finds_damage_and_repair_brings_the_rest_back(fmt, compression, tmp_path: Path):
    """Half of the encodings meet one half of the damage, the others the other."""
    place = flips.small_store(tmp_path / "s", meta_format=fmt, meta_compression=compression)
    right, half = flips.chunks(place), Share(1 + ENCODINGS.index((fmt, compression)) % 2, 2)
    for key in flips.objects(place):
        for damage in half.of(flips.every_damage(place, key, 1201)):
            flips.survive_repair(place, key, damage, right)


def test_exchanged_chunks_are_found_and_lost(tmp_path: Path):
    place = flips.small_store(tmp_path / "s")
    right = flips.chunks(place)
    lost = [flips.survive_repair(place, key, damage, right) for key, damage in flips.swapped_chunks(place)]
    assert {1, 2} == set(lost)


def damaged(tmp_path: Path) -> Path:
    """A store whose second chunk of t in dataset b has a flipped bit."""
    place = flips.small_store(tmp_path / "s")
    (path,) = (place / "t").iterdir()
    index = atlas.Atlas.open(place)._session.snapshot.index("t")
    data = bytearray(path.read_bytes())
    data[int(index.columns["offset"][int(index.starts[1]) + 1])] ^= 1
    path.write_bytes(data)
    return place


def test_verify_names_the_chunk_and_leaves_the_others(tmp_path: Path):
    place, seen = damaged(tmp_path), []
    store = atlas.Atlas.open(place)
    report = store.verify(lambda *step: seen.append(step))
    (problem,) = report.problems
    assert (problem.array, problem.dataset, problem.chunk) == ("t", "b", 1)
    assert "data-" in problem.message
    assert "'b'" in str(problem)
    assert (report.datasets, report.chunks) == (2, 12)
    assert seen[-1][:2] == (6, 6)
    assert np.array_equal(store.open_dataset("a").read_array("t"), cells(1))
    assert np.array_equal(store.open_dataset("b").read_array("t", [3, 0], [3, 8]), cells(2)[3:])


def test_verify_of_a_missing_file_and_of_a_whole_store(tmp_path: Path):
    place = flips.small_store(tmp_path / "s")
    assert atlas.Atlas.open(place).verify().ok
    (path,) = (place / "n").iterdir()
    path.unlink()
    (problem,) = atlas.Atlas.open(place).verify().problems
    assert (problem.array, problem.dataset) == ("n", "")


def test_verify_looks_at_the_head_of_files_too(tmp_path: Path):
    place = flips.small_store(tmp_path / "s")
    (path,) = (place / "n").iterdir()
    path.write_bytes(b"ATLASAF2" + path.read_bytes()[8:])
    (problem,) = atlas.Atlas.open(place).verify().problems
    assert (problem.array, problem.dataset) == ("n", "")


def test_verify_looks_at_the_few_bytes_before_aligned_chunks(tmp_path: Path):
    """Large payloads are begun at multiples of 8: up to 7 zeros before each, which no checksum covers."""
    with atlas.Atlas.create(tmp_path / "s", codec="none") as store:
        for name in "ab":
            view = store.create_dataset(name)
            view.define_array("t", "uint8", ["x"], [1025])
            view.write_array("t", [0], np.arange(1025).astype("uint8"))
    index = atlas.Atlas.open(tmp_path / "s")._session.snapshot.index("t")
    first, second = index.columns["offset"].tolist()
    assert second == first + 1032
    assert atlas.Atlas.open(tmp_path / "s").verify().ok
    (path,) = (tmp_path / "s" / "t").iterdir()
    data = bytearray(path.read_bytes())
    data[second - 3] = 1
    path.write_bytes(data)
    (problem,) = atlas.Atlas.open(tmp_path / "s").verify().problems
    assert "between its chunks" in problem.message


def test_verify_refuses_more_zeros_than_alignment_needs(tmp_path: Path):
    place = flips.small_store(tmp_path / "s")
    forged = Forgery(place)
    forged.index(lambda directory, columns: None)
    assert "between its chunks" not in str(atlas.Atlas.open(place).verify().problems)
    forged.index(lambda directory, columns: None, payload=bytes(8))
    problems = atlas.Atlas.open(place).verify().problems
    assert [problem.array for problem in problems if "between its chunks" in problem.message] == ["t"]


def test_the_command_lists_damage(tmp_path: Path, terminal):
    place = damaged(tmp_path)
    assert "chunk 1 of array 't'" in terminal("verify", place, status=1)
    found = json.loads(terminal("verify", place, "--json", status=1))
    assert found["problems"][0]["dataset"] == "b"


def test_indexes_that_are_read_by_the_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Large ones are; a file that is cut short between two columns is an error."""
    place = flips.small_store(tmp_path / "s")
    right, chunks = state_of(place), flips.chunks(place)
    monkeypatch.setattr(indexes, "_READ_WHOLE", 0)
    assert state_of(place) == right
    assert atlas.Atlas.open(place).verify().ok
    (path,) = (place / "t").iterdir()
    data = path.read_bytes()
    flips.survive_repair(place, f"t/{path.name}", ("junk", data + b"junk"), chunks)
    store = atlas.Atlas.open(place)
    assert store.open_dataset("a").array_stats("t")["row_count"] == 48
    os.truncate(path, len(data) - 40)
    with pytest.raises(atlas.CorruptStore, match="truncated"):
        store.open_dataset("a").read_array("t")


@pytest.mark.parametrize("is_put_aside", [False, True])
def test_a_file_cut_short_while_it_is_mapped_is_an_error(is_put_aside, tmp_path: Path):
    """Not the end of the process."""
    with atlas.Atlas.create(tmp_path / "s", codec="none") as store:
        view = store.create_dataset("a")
        view.define_array("t", "int64", ["x"], [1 << 16])
        view.write_array("t", [0], np.arange(1 << 16))
    view = atlas.Atlas.open(tmp_path / "s").open_dataset("a")
    assert view.read_array("t")[-1] == (1 << 16) - 1
    if is_put_aside:
        with atlas.Atlas.open(tmp_path / "s") as other:
            other.open_dataset("a").write_array("t", [0], np.arange(9, 10))
        assert view.read_array("t")[0] == 0
    (path,) = (tmp_path / "s" / ("_retired" if is_put_aside else "t")).iterdir()
    os.truncate(path, 5000)
    with pytest.raises(atlas.CorruptStore, match="truncated"):
        view.read_array("t")
