"""Mutation testing of the commit code: each comparison, condition, constant and call is changed, one at a time.

A mutant that the suite lets live is code whose reason no test knows. Changes are made in forked children, and only
the tests that run the changed statement are asked, until one of them fails.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import fcntl
import importlib
import io
import json
import logging
import os
import signal
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import coverage
import pytest
import xxhash

from torture.mutants import _functions, _live
from torture.scenes import Share, in_child

TOP = Path(__file__).parents[1]
MODULES = (
    "atlas.conflicts",
    "atlas.commitfiles",
    "atlas.compaction",
    "atlas.commit",
    "atlas.leftovers",
    "atlas.record",
    "atlas.datafiles",
    "atlas.spill",
    "atlas.heap",
    "atlas.garbage",
    "atlas.roots",
    "atlas.assembly",
)
TESTS = (
    "test_rare_moments.py",
    "test_parsing.py",
    "test_conflicts.py",
    "test_store.py",
    "test_change.py",
    "test_bulk.py",
    "test_scale.py",
    "test_storage.py",
    "test_format.py",
    "test_large_writes.py",
    "test_object_store.py",
    "test_object_places.py",
    "test_object_copies.py",
    "test_object_early.py",
    "test_object_moments.py",
    "test_object_answers.py",
    "test_object_repair.py",
    "torture/test_repair.py",
    "torture/test_faults.py",
    "torture/test_powerloss.py",
)
# What it takes to start servers, for tests that need them.
_SECONDS_OF_SERVERS = 3

_COMPARED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.GtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}
_COMPUTED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}

# Changes that nobody can tell from outside, and why.
EQUIVALENT = {
    "self.rewinds = 0 -> 1": "only whether it has changed is asked",
    "time_decides = len(root.retired) > _MOST_WAITING or storage.is_pinned(1) is None -> 2": (
        "whether anybody can tell is the same for all generations"
    ),
    "table = np.full(len(pending.table.alive), -1, np.int64) -> 2": "datasets that are gone are not looked up",
    "is_plain = not pending.attempts and pending.layout is None -> not pending.attempts or pending.layout is None": (
        "where a condition guards the root, building on a state that is not the newest costs a lost race, and no more"
    ),
    "np.promote_types(np.min_scalar_type(low), np.min_scalar_type(high if low >= 0 else ~max(high, 0))) -> 1": (
        "-1 and -2 take as much room"
    ),
    "Piece.load(0, snapshot.segment(array, file)) -> 1": "whether it can be loaded is the same for all numbers",
    "snapshot.storage.read_ranges([Range(file.key, file.length - 1, file.length) for file in files]) -> 2": (
        "a file that has its last byte has the one before, too"
    ),
    (
        "for number, data in storage.fetch(places, [place.end - place.start for place in places]): "
        "-> place.end + place.start"
    ): "more than all of it is as wanted as all of it",
    "return np.frombuffer(data, kept).astype(dtype, copy=False) -> True": "one copy more",
    "added = (*((key, root.generation, now) for key in retired), *((key, 0, now) for key in obsolete)) -> 1": (
        "a record that could not be removed goes at the next commit, or at the one after the last reader of state 0"
    ),
}


def _is_equivalent(what: str) -> bool:
    # `strict` only says what is so: that what is taken together is of one length.
    return what in EQUIVALENT or ("strict=True" in what and what.endswith("-> False"))


def mutated(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the node with one thing about it changed."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in _COMPARED:
        yield ast.Compare(node.left, [_COMPARED[type(node.ops[0])](), *node.ops[1:]], node.comparators)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.And() if isinstance(node.op, ast.Or) else ast.Or(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in _COMPUTED:
        changed = copy.copy(node)
        changed.op = _COMPUTED[type(node.op)]()
        yield changed
    elif isinstance(node, (ast.If, ast.IfExp)):
        yield type(node)(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)):
        for number, part in enumerate(node.generators):
            if part.ifs:
                changed = copy.deepcopy(node)
                changed.generators[number].ifs[0] = ast.UnaryOp(ast.Not(), part.ifs[0])
                yield changed
    elif isinstance(node, ast.Constant) and type(node.value) is int:
        yield ast.Constant(node.value + 1)
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield ast.Pass()


class _Replace(ast.NodeTransformer):
    """Puts another node in the place of the `number`-th."""

    def __init__(self, number: int, choice: int) -> None:
        self._number, self._choice, self._seen = number, choice, -1

    def visit(self, node: ast.AST) -> ast.AST:
        self._seen += 1
        if self._seen == self._number:
            return list(mutated(node))[self._choice]
        return self.generic_visit(node)


def mutants(source: str) -> Iterator[tuple[str, tuple[int, int], ast.Module]]:
    """Yield every mutant of a module: what differs, the lines of that statement, and the whole."""
    lines = source.splitlines()
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    changeable = {line for node in functions for line in range(node.body[0].lineno, (node.end_lineno or 0) + 1)}
    nodes = list(_walk(ast.parse(source)))
    types = {part for node in nodes if isinstance(node, ast.AnnAssign) for part in ast.walk(node.annotation)}
    for number, node in enumerate(nodes):
        if getattr(node, "lineno", 0) not in changeable or node in types:
            continue
        for choice, _ in enumerate(mutated(node)):
            tree = ast.fix_missing_locations(_Replace(number, choice).visit(ast.parse(source)))
            shown = ast.unparse(list(mutated(node))[choice]).splitlines()[0]
            what = f"{node.lineno}: {lines[node.lineno - 1].strip()} -> {shown}"
            yield what, (node.lineno, node.end_lineno or node.lineno), tree


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes in the order in which a transformer visits them."""
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _walk(child)


@dataclass(frozen=True)
class Covering:
    """Which tests run which lines of the modules, and how long each takes."""

    tests: dict[str, dict[str, list[str]]]
    seconds: dict[str, float]

    def of(self, module: str, first: int, last: int) -> set[str]:
        """Return the tests that run a statement."""
        return {test for line in range(first, last + 1) for test in self.tests[module].get(str(line), ())}


def covering(modules: tuple[str, ...], tests: tuple[str, ...], work: Path, share: Share) -> Covering:
    """Run the tests once, and note which of them runs what; other shares begin with other tests."""
    whole = Covering({module: {} for module in modules}, {})
    own = list(share.of(tests))
    for file in [*own, *(file for file in tests if file not in own)]:
        part = _covering_of(modules, file, work)
        whole.seconds.update(part.seconds)
        for module, lines in part.tests.items():
            for line, found in lines.items():
                whole.tests[module].setdefault(line, []).extend(found)
    return whole


def _covering_of(modules: tuple[str, ...], file: str, work: Path) -> Covering:
    """Return what the tests of a file run; kept for other shares of a campaign, until it or the modules change."""
    digest = xxhash.xxh3_64()
    for source in [*map(_source, modules), TOP / file]:
        digest.update(source.read_bytes())
    kept = Path(tempfile.gettempdir(), f"torture-covering-{digest.hexdigest()}.json")
    with kept.open("a+") as held:
        # Another share may be at it.
        fcntl.flock(held, fcntl.LOCK_EX)
        if not held.seek(0, os.SEEK_END):
            held.write(json.dumps(asdict(_cover(modules, file, work))))
            held.flush()
        return Covering(**json.loads(kept.read_text()))


def _cover(modules: tuple[str, ...], file: str, work: Path) -> Covering:
    data = str(work / f"coverage-{Path(file).stem}")
    ended, seconds = in_child(lambda: _run_covered(work, data, file))
    assert ended == 0, f"tests of {file} fail without any mutant"
    measured = coverage.Coverage(data_file=data)
    measured.combine()
    held = measured.get_data()
    found = {}
    for module in modules:
        lines = held.contexts_by_lineno(str(_source(module)))
        # What runs before the first test has no name.
        found[module] = {str(line): [name for name in contexts if name] for line, contexts in lines.items()}
    return Covering(found, seconds)


class _Notes:
    """A plugin of pytest that has what runs counted for the test under way, and notes how long tests take.

    Whichever threads and forked children run it, and also what Hypothesis calls.
    """

    def __init__(self, measured: coverage.Coverage) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._measured = measured

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._measured.switch_context(_name(nodeid))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[_name(report.nodeid)] += report.duration


def _name(node: str) -> str:
    """Return how a test is called here, all its parameters together."""
    node = node.split("[")[0]
    return node[node.find("torture/") :] if "torture/" in node else node.rsplit("/", 1)[-1]


def _run_covered(work: Path, data: str, file: str) -> tuple[int, dict[str, float]]:
    measured = coverage.Coverage(data_file=data, data_suffix=True, config_file=False)
    for option, value in (("parallel", True), ("patch", ["_exit"])):
        measured.set_option(f"run:{option}", value)
    notes = _Notes(measured)
    measured.start()
    try:
        return _pytest([str(TOP / file)], work, notes), dict(notes.seconds)
    finally:
        measured.stop()
        measured.save()


def _source(module: str) -> Path:
    return Path(str(importlib.import_module(module).__file__))


def _pytest(arguments: list[str], work: Path, *plugins: object) -> int:
    options = ["-x", "-q", "--timeout=0", "-p", "no:cacheprovider", f"--basetemp={work / 'tests'}"]
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    # The campaign keeps quiet; there are tests of what is said.
    logging.getLogger("atlas").setLevel(logging.NOTSET)
    return int(pytest.main([*options, *arguments], list(plugins)))


class _Watch:
    """A plugin of pytest that has tests run in the order in which they are asked, and tells what becomes of them."""

    def __init__(self, tests: list[str], pipe: Connection) -> None:
        self._order = {test: place for place, test in enumerate(tests)}
        self._pipe = pipe

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items.sort(key=lambda item: self._order[_name(item.nodeid)])

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._pipe.send(("runs", _name(nodeid)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._pipe.send(("fails", _name(report.nodeid)))


class Jury:
    """The tests, asked about one mutant after the other.

    Those that told others before may take longer and still come first. None is believed that fails without a mutant.
    """

    def __init__(self, known: Covering, work: Path) -> None:
        self._known = known
        self._work = work
        self._told: Counter[str] = Counter()

    def tells(self, module: str, lines: tuple[int, int], tree: ast.Module) -> str | None:
        """Return which test tells a mutant, be it by hanging; ``None`` if all pass, or none runs the statement."""
        tests = sorted(self._known.of(module, *lines), key=self._patience_for)
        while (test := self._first_failing(tests, module, tree)) is not None:
            if self._told[test] or self._first_failing([test]) is None:
                self._told[test] += 1
                return test
            print("fails without any mutant, too:", test, flush=True)
            tests.remove(test)
        return None

    def _patience_for(self, test: str) -> tuple[float, str]:
        seconds = self._known.seconds.get(test, 0.0) + (_SECONDS_OF_SERVERS if "object" in test else 0)
        return seconds / (1 + self._told[test]), test

    def _first_failing(self, tests: list[str], module: str = "", tree: ast.Module | None = None) -> str | None:
        """Ask tests, one after the other, in a child in whose copy of a module functions are exchanged."""
        if not tests:
            return None
        ours, theirs = Pipe(duplex=False)
        child = os.fork()
        if child == 0:
            os.setpgrp()
            try:
                theirs.send(("ends", _ask(tests, self._work, theirs, module, tree)))
            finally:
                os._exit(0)
        theirs.close()
        said, about, running, failing = "", "", "", None
        with contextlib.suppress(EOFError):
            while said != "ends" and ours.poll(30 + 20 * self._known.seconds.get(running, 0.0)):
                said, about = ours.recv()
                if said == "runs":
                    running = about
                elif said == "fails":
                    failing = failing or about
        # What hangs, and all that it started.
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if said != "ends":
            print("hangs, or dies:", running, flush=True)
        return failing or (None if (said, about) == ("ends", 0) else running)


def _ask(tests: list[str], work: Path, pipe: Connection, name: str, tree: ast.Module | None) -> int:
    if tree is not None:
        module = importlib.import_module(name)
        changed = dict(_functions(compile(tree, str(module.__file__), "exec")))
        for qualified, function in _live(module):
            if qualified in changed:
                function.__code__ = changed[qualified]
    ended = _pytest([str(TOP / test) for test in tests], work, _Watch(tests, pipe))
    assert ended not in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED), "no tests were run"
    return ended


def survivors(
    work: Path, share: Share, modules: tuple[str, ...] = MODULES, tests: tuple[str, ...] = TESTS
) -> tuple[int, list[str]]:
    """Return how many mutants there are, and which of them live though they are not known to be equivalent."""
    jury = Jury(covering(modules, tests, work, share), work)
    with contextlib.redirect_stdout(io.StringIO()):
        # The children find the tests loaded.
        pytest.main(["--collect-only", "-q", "-p", "no:cacheprovider", *(str(TOP / test) for test in tests)])
    alive = []
    cases = [(name, *mutant) for name in modules for mutant in mutants(_source(name).read_text())]
    chosen = list(share.of(cases))
    for name, what, lines, tree in chosen:
        if not _is_equivalent(what.split(": ", 1)[1]) and jury.tells(name, lines, tree) is None:
            alive.append(f"{name}:{what}")
            print("alive:", alive[-1], flush=True)
    return len(chosen), alive
