"""The benchmark harness, end to end on a tiny size, with this package and with zarr."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from perf.bench.argo import ARGO
from perf.bench.contenders import Contender
from perf.bench.environments import here
from perf.bench.figures import ratio
from perf.bench.plan import OPERATIONS, PRESETS, SWEEPS, narrowed
from perf.bench.process import Worker, WorkerFailed
from perf.bench.publish import DOCUMENT, README, insert
from perf.bench.report import behind, brief, left_out, summary, swept, time_cell
from perf.bench.runner import Pace, Runner
from perf.bench.systems import ADAPTERS, SYSTEMS
from perf.bench.targets import target_rows
from perf.bench.usage import PeakMemory
from perf.bench.workloads import WORKLOADS, Data

ROOT = Path(__file__).parents[1]
TINY = replace(WORKLOADS["profile-smooth"], datasets=3, shape=(6, 8), chunks=(6, 8))
PACE = Pace(rounds=2, budget=30, limit=120)


def bench(tmp_path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "perf.bench", "--work", str(tmp_path / "work"), "--results", str(tmp_path / "out")]
    return subprocess.run([*command, *options], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)


def test_a_run_publishes_json_markdown_and_plots_and_resumes(tmp_path):
    options = ("--in-place", "--preset=quick", "--systems=atlas:zstd,zarr:lz4", "--workloads=sensors-smooth")
    options += ("--datasets=5", "--rounds=1")
    run = bench(tmp_path, *options)
    assert run.returncode == 0, run.stderr
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    records = {(r["system"], r["operation"]): r for r in results["records"]}
    assert len(records) == 8
    assert results["machine"]["cores"] >= 1
    assert results["versions"]["zarr"]["zarr"]
    for system in ("atlas", "zarr"):
        assert len(records[system, "write"]["write"]) == 1
        assert records[system, "write"]["size"] > 0
        assert len(records[system, "full"]["warm"]) == len(records[system, "slice"]["first"]) == 1
        assert len(records[system, "into"]["warm"]) == 1
        assert "first" not in records[system, "into"]
        assert 1 << 20 < records[system, "full"]["peak"] <= records[system, "full"]["peak with files"]
    report = (tmp_path / "out" / "report.md").read_text()
    assert "| **atlas** | zstd |" in report
    assert "| zarr | lz4 |" in report
    drawn = list((tmp_path / "out").glob("*.svg"))
    assert {path.stem for path in drawn} == {f"sensors-smooth-{o}" for o in ("write", "slice", "full", "into")}
    assert all(ElementTree.parse(path).getroot().tag.endswith("svg") for path in drawn)

    again = bench(tmp_path, *options)
    assert again.returncode == 0, again.stderr
    assert json.loads((tmp_path / "out" / "results.json").read_text())["records"] == results["records"]


def test_a_full_run_has_every_workload_and_every_sweep_once():
    parts = PRESETS["full"]
    assert sorted(name for part in parts for name in part.workloads) == sorted([*WORKLOADS, ARGO])
    assert [sweep for part in parts for sweep in part.sweeps] == list(SWEEPS)
    # Who is compared with whom, and where ours is beside all codecs of all others.
    assert all("atlas:zstd" in part.contenders or "atlas" in part.contenders for part in parts)
    assert [set(part.workloads) for part in parts if set(part.contenders) == set(SYSTEMS)] == [{"masked"}]


def test_what_is_asked_of_a_run_is_measured_as_in_the_part_that_has_it():
    quick, full = PRESETS["quick"], PRESETS["full"]
    first, second = narrowed(full, ["argo", "masked"], [])
    assert (first.workloads, first.contenders) == ({"argo": None}, full[0].contenders)
    assert (second.workloads, second.pace, second.sweeps) == ({"masked": None}, full[1].pace, ())
    (other,) = narrowed(quick, ["packed"], ["chunks"])
    assert (other.workloads, other.sweeps, other.pace) == ({"packed": None}, ("chunks",), quick[0].pace)
    (swept,) = narrowed(full, [], ["workers"])
    assert [step.workers for step in swept.steps(OPERATIONS)] == [1, 2, 4, 8]


def contender(tmp_path, adapter: str | None = None) -> Contender:
    system = SYSTEMS["zarr"]
    if adapter is not None:
        path = tmp_path / "adapter.py"
        path.write_text(adapter)
        system = replace(system, name="peer", adapter=path)
    return Contender(system, "lz4", here(), tmp_path)


def data(tmp_path) -> Data:
    source = Data(TINY, 0, tmp_path)
    source.make()
    return source


def quiet(text: str) -> None:
    assert text


def test_a_wrong_result_is_reported_as_unequal(tmp_path):
    liar = "from adapters.zarr_alone import *\nimport adapters.zarr_alone as honest\n"
    liar += "def read(handle, array, shape):\n    result = honest.read(handle, array, shape)\n"
    liar += "    if array == 'salinity':\n        result[-1, -1, -1] += 1\n    return result\n"
    runner = Runner([contender(tmp_path), contender(tmp_path, liar)], PACE, quiet)
    honest, wrong = runner.read(data(tmp_path), 1.0)
    assert len(honest["warm"]) == 2
    assert wrong == {"system": "peer", "codec": "lz4", "error": "unequal: salinity is not what was stored"}
    assert time_cell(wrong, honest, "warm") == wrong["error"]


def test_every_round_is_looked_at_and_what_is_wrong_has_no_times(tmp_path):
    liar = "from adapters.zarr_alone import *\nimport adapters.zarr_alone as honest\nreads = []\n"
    liar += "def read(handle, array, shape):\n    reads.append(array)\n"
    liar += "    return honest.read(handle, array, shape) + (len(reads) > 9)\n"
    (wrong,) = Runner([contender(tmp_path, liar)], PACE, quiet).read(data(tmp_path), 1.0)
    assert wrong["error"].startswith("unequal: ")
    assert "warm" not in wrong


def test_a_system_that_fails_later_keeps_the_times_that_it_had(tmp_path):
    fails = "from adapters.zarr_alone import *\nimport adapters.zarr_alone as honest\nimport pathlib\n"
    fails += f"starts = pathlib.Path({str(tmp_path / 'starts')!r})\n"
    fails += "def open_store(place, workers):\n    with starts.open('a') as file:\n        file.write('x')\n"
    fails += "    if len(starts.read_text()) == 3:\n        raise OSError('no more')\n"
    fails += "    return honest.open_store(place, workers)\n"
    (row,) = Runner([contender(tmp_path, fails)], PACE, quiet).read(data(tmp_path), 1.0)
    assert row["error"] == "OSError: no more"
    assert len(row["warm"]) == 2
    assert len(row["first"]) == 1
    assert time_cell(row, None, "warm")[0].isdigit()


def test_a_read_into_a_kept_array_is_checked_like_any_other(tmp_path):
    lacks = "from adapters.zarr_alone import open_store, read, write\n"
    forgets = "from adapters.zarr_alone import *\ndef read_into(handle, array, out):\n    pass\n"
    runners = [contender(tmp_path), contender(tmp_path, lacks)]
    honest, lacking = Runner(runners, PACE, quiet).read(data(tmp_path), 1.0, into=True)
    assert len(honest["warm"]) == 2
    assert lacking["error"] == "NotImplementedError: it reads into new arrays only"
    assert time_cell(lacking, honest, "warm") == "it reads into new arrays only"
    (wrong,) = Runner([contender(tmp_path, forgets)], PACE, quiet).read(data(tmp_path), 1.0, into=True)
    assert wrong["error"].startswith("unequal: ")


@pytest.mark.parametrize(
    ("adapter", "error"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("def write(*_):\n    raise ValueError('no such codec\\nat all')", "ValueError: no such codec"),
        ("import os\ndef write(*_):\n    os._exit(3)", "its process ended with status 3"),
    ],
)
def test_a_system_that_fails_is_a_row_with_its_error(tmp_path, adapter, error):
    runner = Runner([contender(tmp_path, adapter)], PACE, quiet)
    (row,) = runner.write(data(tmp_path))
    assert row == {"system": "peer", "codec": "lz4", "error": error}
    (row,) = runner.read(data(tmp_path), 1.0)
    assert row["error"].endswith(error)


def test_a_system_that_takes_too_long_is_given_up(tmp_path):
    slow = "import time\ndef write(*_):\n    time.sleep(100)"
    (row,) = Runner([contender(tmp_path, slow)], replace(PACE, limit=2), quiet).write(data(tmp_path))
    assert row["error"] == "took more than 2 s"


def test_the_data_follow_from_the_seed(tmp_path):
    arrays = []
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        source = Data(TINY, seed, tmp_path / place)
        source.make()
        arrays.append(np.load(source.folder / "temperature.npy"))
    assert arrays[0].tobytes() == arrays[1].tobytes()
    assert arrays[0].tobytes() != arrays[2].tobytes()


def test_memory_covers_the_children(tmp_path):
    adapter = tmp_path / "adapter.py"
    adapter.write_text(
        "import subprocess, sys\n"
        "def open_store(place, workers):\n"
        "    code = 'import time; held = bytearray(b\"x\") * (100 << 20); time.sleep(1)'\n"
        "    subprocess.run([sys.executable, '-c', code], check=True)\n"
    )
    with Worker(here().python, adapter, tmp_path / "log") as worker, PeakMemory(worker.pid) as peak:
        worker.ask(60, {"do": "open", "place": ""})
    assert peak.whole >= peak.own > 100 << 20


def test_a_worker_that_was_stopped_does_not_answer(tmp_path):
    with Worker(here().python, ADAPTERS / "box.py", tmp_path / "log") as worker:
        assert worker.ask(60, {"do": "forget"}) == {}
        with pytest.raises(WorkerFailed, match="AttributeError"):
            worker.ask(60, {"do": "open", "place": ""})


def test_ratios_are_taken_round_by_round():
    assert ratio({"warm": [2.0, 30.0, 4.0]}, {"warm": [1.0, 10.0, 1.0]}, "warm") == 3.0
    assert ratio({"warm": [2.0]}, {"warm": [1.0, 9.0]}, "warm") == 2.0
    assert ratio({"error": "no"}, {"warm": [1.0]}, "warm") is None


def test_targets_name_the_nearest_peer():
    facts = {"workload": "gridded-smooth", "sweep": None, "operation": "slice"}
    records = [
        facts | {"system": "atlas", "codec": "zstd", "warm": [1.0]},
        facts | {"system": "atlas-0.14", "codec": "zstd", "warm": [120.0]},
        facts | {"system": "hdf5", "codec": "none", "warm": [1.2]},
    ]
    _, rows = target_rows(records)
    assert ["gridded-smooth, slice, warm", "atlas-0.14 zstd", "≥ 100×", "120×", "yes"] in rows
    assert ["gridded-smooth, slice, warm", "hdf5 none, the fastest of all", "≥ 1.5×", "1.2×", "**no**"] in rows


def test_a_target_whose_peer_failed_says_so():
    facts = {"workload": "profile-smooth", "datasets": 7, "sweep": None, "operation": "slice"}
    records = [
        facts | {"system": "atlas", "codec": "zstd", "warm": [1.0]},
        facts | {"system": "zarr+dask-plain", "codec": "zstd", "error": "took more than 60 s"},
    ]
    _, rows = target_rows(records)
    assert ["profile-smooth, slice, warm", "zarr+dask-plain zstd", "≥ 200×", "took more than 60 s", "–"] in rows


def test_everything_in_which_a_peer_is_ahead_is_listed():
    facts = {"workload": "packed", "datasets": 16, "sweep": None}
    slices = facts | {"operation": "slice"}
    records = [
        slices | {"system": "atlas", "codec": "zstd", "warm": [1.0], "first": [1.0]},
        slices | {"system": "atlas", "codec": "none", "warm": [0.1], "first": [0.1]},
        slices | {"system": "blosc2", "codec": "none", "warm": [0.5], "first": [2.0]},
        slices | {"system": "zarrs", "codec": "none", "warm": [0.25], "first": [2.0]},
        facts | {"operation": "full", "system": "atlas", "codec": "zstd", "warm": [1.0]},
        facts | {"operation": "full", "system": "blosc2", "codec": "none", "warm": [3.0]},
    ]
    _, rows = behind(records)
    assert rows == [["packed", "slice", "1.00", "zarrs none ×0.25, blosc2 none ×0.5"]]


def test_a_system_that_has_no_place_for_a_workload_is_named_below_the_table():
    facts = {"workload": "argo", "datasets": None, "sweep": None, "codec": "zstd"}
    records = [
        facts | {"operation": "full", "system": "atlas", "warm": [1.0]},
        facts | {"operation": "write", "system": "zarr", "error": "NotImplementedError: rows are unequal"},
        facts | {"operation": "full", "system": "zarr", "error": "not stored: NotImplementedError: rows are unequal"},
        facts | {"operation": "full", "system": "hdf5", "error": "OSError: no"},
    ]
    assert [row[0] for row in summary(records)[1]] == ["**atlas**", "hdf5"]
    assert left_out(records) == ["Not in the table: zarr; rows are unequal."]


def test_a_sweep_is_a_table_with_a_column_for_each_point():
    facts = {"workload": "sensors-smooth", "sweep": "datasets", "operation": "full"}
    records = [
        facts | {"system": "atlas", "codec": "zstd", "datasets": 100, "warm": [1.0]},
        facts | {"system": "zarr", "codec": "lz4", "datasets": 100, "warm": [0.5]},
        facts | {"system": "atlas", "codec": "zstd", "datasets": 1000, "warm": [2.0]},
        facts | {"system": "zarr", "codec": "lz4", "datasets": 1000, "error": "OSError: no"},
    ]
    head, rows = swept(records, "datasets")
    assert head == ["system", "codec", "100", "1,000"]
    assert rows == [["**atlas**", "zstd", "1.00", "2.00"], ["zarr", "lz4", "0.500 ×0.5 ◀", "OSError: no"]]


def test_the_readme_names_the_fastest_peer_whatever_it_is():
    facts = {"workload": "gridded-smooth", "datasets": 200, "sweep": None, "operation": "slice"}
    records = [
        facts | {"system": "atlas", "codec": "zstd", "warm": [1.0]},
        facts | {"system": "atlas", "codec": "none", "warm": [0.1]},
        facts | {"system": "tensorstore", "codec": "zstd", "warm": [4.0]},
        facts | {"system": "hdf5", "codec": "none", "warm": [0.8]},
    ]
    last = brief({"records": records}).splitlines()[-1]
    assert last == "| gridded-smooth ×200, slice | 1.00 | 4.00 ×4 | – | – | hdf5 none: 0.800 ×0.8 ◀ |"


def test_the_documentation_has_the_markers():
    for document, names in ((DOCUMENT, ("results", "systems")), (README, ("speed",))):
        for name in names:
            assert "new" in insert(document.read_text(), name, "new")
    with pytest.raises(ValueError, match="no markers"):
        insert("nothing", "results", "new")
