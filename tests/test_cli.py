"""The command, as somebody at a terminal of 80 columns meets it."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

import atlas
from atlas import Atlas
from atlas.cli import COMMANDS, app
from atlas.cli.manual import manual

ROOT = Path(__file__).parents[1]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Profiles of unequal length, named as Argo's are."""
    directory = tmp_path / "profiles"
    directory.mkdir()
    for i in range(1, 6):
        depth = 10 + i
        variables = {
            "TEMP": (
                ("N_PROF", "N_LEVELS"),
                np.linspace(20 + i, 4, depth, dtype="f4")[None],
                {"units": "degree_Celsius"},
            ),
            "PLATFORM": ("N_PROF", np.array(["buoy"], object)),
            "JULD": ("N_PROF", np.array(["2020-01-01"], "M8[ns]")),
        }
        ds = xr.Dataset(variables, attrs={"title": "Argo float vertical profile, " + "long " * 20, "number": i})
        ds.to_netcdf(directory / f"R13857_{i:03d}.nc")
    return directory


@pytest.fixture
def store(files, place) -> Path:
    atlas.create(files, place)
    return place


# ── help ─────────────────────────────────────────────────────────────────────────────────────


def test_the_manual_is_what_help_says():
    assert (ROOT / "docs" / "cli.md").read_text() == manual(), "python -m atlas.cli.manual > docs/cli.md"


def test_help_fits_a_terminal_of_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for words in ([], *([name] for name in COMMANDS)):
        shown = CliRunner().invoke(app, [*words, "--help"]).stdout
        assert max(map(len, shown.splitlines())) <= 80
        assert "..." not in shown.replace("[ARGS]...", "").replace("DATASET...", "").replace("]...", "")
        assert not words or "Examples:" in shown


def test_help_is_shown_before_anything_is_loaded():
    code = """
import sys
sys.argv = ["atlas", "--help"]
from atlas.cli import main
try:
    main()
except SystemExit:
    print(*(name for name in ("numpy", "xarray", "numba", "rich", "zstandard", "atlas.store") if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == ""


def test_every_example_runs(files, tmp_path, monkeypatch, terminal):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more").mkdir()
    (files / "R13857_005.nc").rename(tmp_path / "more" / "new.nc")
    # In an order in which what they need is there.
    for name in ("create", "append", *COMMANDS[2:]):
        examples = __import__(f"atlas.cli.{name}", fromlist=["EXAMPLES"]).EXAMPLES
        for command, _ in examples:
            words = shlex.split(command.partition("&&")[0])
            if "s3://" in command:
                continue
            if command == "atlas append more/ store/ --existing skip":
                terminal("rm", "store/", "new")
            if name in ("mv", "cp", "rm") and "R13857_001" in words:
                terminal("create", "profiles/", "store/", "--overwrite")
            assert words[0] == "atlas"
            terminal(*words[1:])


# ── output ───────────────────────────────────────────────────────────────────────────────────


def test_tables_fit_80_columns(store, terminal):
    with Atlas.open(store) as opened:
        opened.rename_dataset("R13857_001", "n" * 100)
    for words in (
        ["ls", store, "--long"],
        ["info", store],
        ["stats", store],
        ["stats", store, "TEMP"],
        ["bench", store],
    ):
        lines = terminal(*words).splitlines()
        assert max(map(len, lines)) <= 80
    assert "n" * 40 in terminal("ls", store, "--long")
    assert max(map(len, terminal("show", store, "R13857_002").splitlines())) <= 80


@pytest.mark.parametrize(
    "words",
    [
        ["ls"],
        ["ls", "--long"],
        ["info"],
        ["stats"],
        ["verify"],
        ["compact"],
        ["bench", "TEMP"],
        ["show", "R13857_002"],
        ["stats", "TEMP", "R*"],
        ["read", "R13857_002", "TEMP"],
        ["read", "R*", "JULD"],
        ["cp", "R13857_002", "copy"],
        ["mv", "R13857_002", "other"],
        ["rm", "R13857_002"],
        ["repair"],
        ["gc"],
    ],
)
def test_every_command_speaks_json(store, terminal, words):
    json.loads(terminal(words[0], store, *words[1:], "--json"))


def test_files_in_and_out_speak_json(files, place, tmp_path, terminal):
    assert len(json.loads(terminal("create", files, place, "--json"))["added"]) == 5
    assert len(json.loads(terminal("append", files, place, "--existing", "skip", "--json"))["existing"]) == 5
    assert len(json.loads(terminal("export", place, tmp_path / "out", "--json"))["written"]) == 5


def test_floats_show_the_digits_that_they_have(tmp_path, terminal):
    with atlas.Atlas.create(tmp_path / "s") as store:
        view = store.create_dataset("a")
        view.define_array("t", "float32", ["x"], [2])
        view.write_array("t", [0], np.array([22.235, -1.1], "f4"))
        view.set_array_attribute("t", "k", np.float32(0.1))
    assert terminal("read", tmp_path / "s", "a", "t").splitlines() == ["x,t", "0,22.235", "1,-1.1"]
    assert json.loads(terminal("read", tmp_path / "s", "a", "t", "--json")) == [22.235, -1.1]
    shown = terminal("show", tmp_path / "s", "a")
    assert "t:k = 0.1 ;" in shown
    assert "min -1.1, max 22.235" in shown
    described = json.loads(terminal("show", tmp_path / "s", "a", "--json"))
    assert described["variables"]["t"]["attributes"] == {"k": 0.1}


def test_a_single_cell_is_no_list(tmp_path, terminal):
    cells = {"f": np.float32(1.1), "d": 1.5, "s": "text", "t": np.datetime64("2024-01-01", "s")}
    with atlas.Atlas.create(tmp_path / "s") as store:
        xr.Dataset(cells).atlas.write(store, "a")
    found = {name: json.loads(terminal("read", tmp_path / "s", "a", name, "--json")) for name in cells}
    assert found == {"f": 1.1, "d": 1.5, "s": "text", "t": "2024-01-01T00:00:00"}


def test_reading_cells(store, tmp_path, terminal):
    rows = list(
        csv.reader(io.StringIO(terminal("read", store, "R13857_002", "TEMP", "--start", "0,10", "--shape", "1,2")))
    )
    assert rows == [["N_PROF", "N_LEVELS", "TEMP"], ["0", "10", rows[1][2]], ["0", "11", "4.0"]]
    assert "0,2020-01-01T00:00:00.000000000" in terminal("read", store, "R13857_002", "JULD")
    terminal("read", store, "R13857_002", "TEMP", "-o", tmp_path / "one.npy")
    assert np.load(tmp_path / "one.npy").shape == (1, 12)
    terminal("read", store, "R*", "PLATFORM", "-o", tmp_path / "all.npy")
    assert np.load(tmp_path / "all.npy").tolist() == [["buoy"]] * 5
    terminal("read", store, "R*", "TEMP", "-o", tmp_path / "all.csv")
    assert len((tmp_path / "all.csv").read_text().splitlines()) == 1 + sum(10 + i for i in range(1, 6))
    for words in (
        ["read", store, "R*", "nope"],
        ["read", store, "x*", "TEMP"],
        ["read", store, "R*", "TEMP", "-o", "a.npy"],
    ):
        terminal(*words, status=1)
        assert len(terminal.errors.splitlines()) == 1
    terminal("read", store, "R13857_002", "TEMP", "-o", "cells.txt", status=2)
    terminal("read", store, "R13857_002", "TEMP", "--start", "a,b", status=2)
    assert terminal.errors.endswith("such as 0,10. See atlas read --help.\n")
    terminal("read", store, "R13857_002", "TEMP", "-o", "cells.csv", "--json", status=2)
    assert not Path("cells.csv").exists()


def test_statistics(store, terminal):
    row = json.loads(terminal("stats", store, "TEMP", "*_003", "--json"))[0]
    assert row == {"dataset": "R13857_003", "cells": 13, "missing": 0, "min": 4.0, "max": 23.0}
    names = [row["name"] for row in json.loads(terminal("stats", store, "--json"))]
    assert {"TEMP", "number", "TEMP:units"} <= set(names)
    assert not any("_atlas" in name for name in names)
    terminal("stats", store, "nope", status=1)
    terminal("stats", store, "--where", "max(TEMP) > 3", status=2)


def test_names_are_shown_as_they_are(tmp_path, terminal):
    with Atlas.create(tmp_path / "s") as store:
        store.create_dataset(":ocean:").set_attribute("[bold]k", 1)
    assert ":ocean:" in terminal("ls", tmp_path / "s", "--long")
    assert "[bold]k" in terminal("stats", tmp_path / "s")


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path, terminal):
    with Atlas.create(tmp_path / "s") as store:
        for name in ("a[1]", "a1", "a2"):
            store.create_dataset(name).set_attribute("k", 1)
    assert terminal("ls", tmp_path / "s", "a[1]") == "a[1]\n"
    assert terminal("ls", tmp_path / "s", "a[12]") == "a1\na2\n"


def test_nothing_is_lost_in_a_npy_file(tmp_path, terminal):
    with Atlas.create(tmp_path / "s") as store:
        xr.Dataset({"v": ("x", np.array([b"a", b"b\0"], object))}).atlas.write(store, "d")
    terminal("read", tmp_path / "s", "d", "v", "-o", tmp_path / "v.npy", status=1)
    assert "end in NUL" in terminal.errors


@pytest.mark.parametrize(("suffix", "step"), [(".csv", "atlas.cli.read._lines"), (".npy", "numpy.save")])
def test_half_of_a_file_is_not_left(store, tmp_path, terminal, monkeypatch, suffix, step):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(step, interrupted)
    terminal("read", store, "R13857_001", "TEMP", "-o", tmp_path / f"cells{suffix}", status=130)
    assert not (tmp_path / f"cells{suffix}").exists()


def test_a_closed_stdout_is_no_crash(store):
    for option in ([], ["--json"]):
        command = [sys.executable, "-m", "atlas", "ls", str(store), *option]
        done = subprocess.run(["bash", "-c", f"{shlex.join(command)} >&-"], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


def test_what_was_meant_is_asked(store, terminal):
    for words, meant in (
        (["show", store, "R13857_0O1"], "did you mean 'R13857_001'"),
        (["mv", store, "r13857_002", "x"], "did you mean 'R13857_002'"),
        (["rm", store, "R13857_001", "R1385_003"], "did you mean 'R13857_003'"),
        (["read", store, "R13857_001", "TEMPS"], "did you mean 'TEMP'?"),
        (["stats", store, "temp"], "did you mean 'TEMP'?"),
        (["bench", store, "PLATFROM"], "did you mean 'PLATFORM'?"),
        (["show", store, "something else"], "dataset not found: 'something else'"),
        (["rm", store, "R*"], "patterns go behind --glob"),
        (
            ["export", store, "out", "--where", "max(TEMP) > 99"],
            "no dataset matches '*' and could satisfy 'max(",
        ),
    ):
        assert terminal(*words, status=1) == ""
        assert meant in terminal.errors
        assert len(terminal.errors.splitlines()) == 1
    terminal("ls", store, "--where", "max(TEMP > 3", status=1)
    assert terminal.errors.endswith("'(' was never closed\n")


def test_times_are_shown_as_times(tmp_path, terminal):
    ds = xr.Dataset(
        {"t": ("x", np.array(["2020-01-01", "NaT"], "M8[ns]")), "gap": ("x", np.array([90, 60], "m8[s]")), "on": True},
        attrs={"when": np.datetime64("2021-02-03", "ns"), "parts": {"a": [1]}},
    )
    with Atlas.create(tmp_path / "s") as store:
        ds.atlas.write(store, "a")
    shown = terminal("show", tmp_path / "s", "a")
    assert "t:_FillValue = NaT ;" in shown
    assert "min 2020-01-01T00:00:00.000000000" in shown
    assert ':parts = "{\\"a\\": [1]}" ;' in shown
    found = json.loads(terminal("show", tmp_path / "s", "a", "--json"))["variables"]
    assert found["t"]["statistics"]["min"] == "2020-01-01T00:00:00.000000000"
    assert found["gap"]["statistics"]["max"] == "90 seconds"
    row = json.loads(terminal("stats", tmp_path / "s", "t", "--json"))[0]
    assert (row["cells"], row["missing"], row["max"]) == (2, 1, "2020-01-01T00:00:00.000000000")
    rows = {row["name"]: row["min"] for row in json.loads(terminal("stats", tmp_path / "s", "--json"))}
    assert rows["when"] == "2021-02-03T00:00:00.000000000"
    assert rows["parts"] == '{"a": [1]}'
    assert rows["on"] is True
    assert "2020-01-01T00:00:00" in terminal("stats", tmp_path / "s")


def test_json_is_json_also_where_there_are_no_other_letters(tmp_path):
    with Atlas.create(tmp_path / "s") as store:
        store.create_dataset("größe")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "atlas", "ls", str(tmp_path / "s")]
    assert json.loads(subprocess.check_output([*command, "--json"], env=environment)) == ["größe"]
    assert subprocess.check_output(command, env=environment) == b"gr\\xf6\\xdfe\n"


def test_deleting_by_glob_is_all_or_nothing(store, terminal):
    terminal("rm", store, "R13857_001", "nope", status=1)
    assert len(Atlas.open(store)) == 5
    terminal("rm", store, status=2)
    terminal("rm", store, "R13857_001", "--glob", "none*", status=1)
    assert terminal.errors == f"atlas: no dataset matches 'none*' in {store}\n"
    assert terminal("rm", store, "R13857_001", "--glob", "*_00[12]") == "2 datasets deleted\n"
    assert Atlas.open(store).list_datasets() == ["R13857_003", "R13857_004", "R13857_005"]


def test_what_is_misspelt_is_one_line_and_status_2(store, terminal):
    for words in (
        ["nope"],
        ["ls"],
        ["ls", store, "--nope"],
        ["create", store],
        ["create", "a", "b", "--on-error", "x"],
    ):
        assert terminal(*words, status=2) == ""
        assert terminal.errors.startswith("atlas: ")
        assert "--help" in terminal.errors
        assert len(terminal.errors.splitlines()) == 1


def test_no_words_at_all_bring_the_help(terminal):
    assert terminal(status=2) == ""
    assert terminal.errors.startswith("Usage: atlas")
    assert len(terminal.errors.splitlines()) > 20


def test_options_do_what_they_say(files, place, terminal):
    terminal("create", files, place, "--chunk", "N_LEVELS=4", "--chunk", "JULD=1,", "--no-decode-times", "--workers", 1)
    view = Atlas.open(place).open_dataset("R13857_001")
    assert view.array_meta("TEMP")["chunk_shape"] == [1, 4]
    assert view.array_meta("JULD")["dtype"] == "int64"
    terminal("create", files, place, "--chunk", "nonsense", "--overwrite", status=2)
    (files / "R13857_001.nc").write_bytes(b"broken")
    text = terminal(
        "create", files, place, "--overwrite", "--on-error", "skip", "--log", place.parent / "log", status=1
    )
    assert "4 datasets added, 1 file skipped" in text
    assert "R13857_001.nc" in terminal.errors
    assert re.search(r"\tskipped\tR13857_001\t.*R13857_001.nc\t\w+", (place.parent / "log").read_text())
    terminal("append", files, place, status=1)
    assert len(terminal.errors.splitlines()) == 1
    assert not (place.parent / "store.ingest").exists()


# ── the real terminal ────────────────────────────────────────────────────────────────────────


def test_progress_is_for_terminals_only(files, place, terminal):
    terminal("create", files, place)
    assert terminal.errors == ""
    reader, writer = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "atlas", "create", files, place, "--overwrite"], stderr=writer, stdout=subprocess.DEVNULL
    )
    os.close(writer)
    shown = b""
    while True:
        try:
            shown += os.read(reader, 65536)
        except OSError:
            break
    os.close(reader)
    assert process.wait(60) == 0
    assert b"reading files" in shown


def test_the_shell_completes_commands_and_names(store):
    words = f"atlas show {store} R13857_00"
    environment = {"_ATLAS_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "3"}
    code = "import sys; sys.argv = ['atlas']; from atlas.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.stdout.split() == [f"R13857_{i:03d}" for i in range(1, 6)]


def test_bash_completes_what_is_typed(store):
    """As a shell does it that was told to by ``source <(atlas --show-completion bash)``."""
    script = """
    source <(atlas --show-completion bash)
    while read -ra COMP_WORDS; do
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _atlas_completion atlas; echo "${COMPREPLY[@]}"
    done
    """
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    typed = f"atlas show {store} R13857_003\natlas read {store} R13857_003 TE\natlas export {store} out --format z\n"
    completed = subprocess.check_output(["bash", "-c", script], input=typed, text=True, env=environment)
    assert completed.split("\n") == ["R13857_003", "TEMP", "zarr", ""]


# ── out ──────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_exported_when_a_name_is_wrong(place, tmp_path):
    with atlas.Atlas.create(place) as store:
        store.create_dataset("a").set_attribute("k", 1)
    for names, error in ((["a", "nobody"], KeyError), ("a", ValueError)):
        with pytest.raises(error, match=r"nobody|single name 'a'"):
            atlas.export(place, tmp_path / "out", names=names)
    assert not (tmp_path / "out").exists()
    missed = CliRunner().invoke(app, ["export", str(place), str(tmp_path / "out"), "nobod*"])
    assert isinstance(missed.exception, atlas.DatasetNotFound)
    assert str(missed.exception).startswith("no dataset matches 'nobod*' in ")
    assert not (tmp_path / "out").exists()
    report = atlas.export(place, tmp_path / "out", names=["a", "nobody", "a"], on_error="skip")
    assert (list(report.written), list(report.skipped)) == (["a"], ["nobody"])


@pytest.mark.parametrize("form", ["netcdf", "zarr"])
def test_what_was_exported_comes_back_identical(store, tmp_path, form):
    opened = Atlas.open(store)
    report = atlas.export(opened, tmp_path / "out", format=form)
    assert list(report.written) == opened.list_datasets()
    again = tmp_path / "again"
    atlas.create(tmp_path / "out", again)
    for name, path in report.written.items():
        with xr.open_dataset(path, **({"consolidated": False} if form == "zarr" else {})) as ds:
            xr.testing.assert_identical(ds.load(), opened.to_xarray(name))
        xr.testing.assert_identical(Atlas.open(again).to_xarray(name), opened.to_xarray(name))
    with pytest.raises(atlas.InvalidArgument, match="there already"):
        atlas.export(opened, tmp_path / "out", format=form)
    assert atlas.export(opened, tmp_path / "out", format=form, overwrite=True).written == report.written


def test_what_a_format_cannot_hold_is_reported(store, tmp_path):
    with Atlas.open(store) as opened:
        view = opened.create_dataset("odd .?*")
        view.define_array("c", "complex128", ["x"], [2])
    with pytest.raises(atlas.AtlasError, match="odd"):
        atlas.export(store, tmp_path / "out")
    report = atlas.export(store, tmp_path / "out", overwrite=True, on_error="skip")
    assert len(report.written) == 5
    assert list(report.skipped) == ["odd .?*"]
    assert len(list((tmp_path / "out").iterdir())) == 5, "nothing is left half written"
