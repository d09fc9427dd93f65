"""Mutants of the commit code: each sync taken away, each order swapped. A test that lets one live proves nothing.

A mutant changes the text of a module in a forked child; the functions that are in use already get the new code.
"""

from __future__ import annotations

import importlib
import inspect
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torture import powerloss
from torture.scenes import in_child


@dataclass(frozen=True)
class Mutant:
    """One change of the source, made where it is written exactly once."""

    what: str
    module: str
    old: str
    new: str

    def is_possible(self) -> bool:
        """Return whether the source is still as it was when the mutant was written."""
        return Path(str(importlib.import_module(self.module).__file__)).read_text().count(self.old) == 1

    def apply(self) -> None:
        """Change this process's copy of the module."""
        module = importlib.import_module(self.module)
        assert self.is_possible(), f"{self.what}: the source has changed"
        source = Path(str(module.__file__)).read_text()
        changed = dict(_functions(compile(source.replace(self.old, self.new), str(module.__file__), "exec")))
        swapped = 0
        for name, function in _live(module):
            if name in changed and changed[name].co_code != function.__code__.co_code:
                function.__code__ = changed[name]
                swapped += 1
        assert swapped, f"{self.what}: nothing that runs has changed"


def _functions(code: types.CodeType) -> Iterator[tuple[str, types.CodeType]]:
    for item in code.co_consts:
        if isinstance(item, types.CodeType):
            yield item.co_qualname, item
            if "<" not in item.co_name:
                yield from _functions(item)


def _live(module: types.ModuleType) -> Iterator[tuple[str, Any]]:
    owners = [module, *(c for c in vars(module).values() if inspect.isclass(c) and c.__module__ == module.__name__)]
    for owner in owners:
        for member in vars(owner).values():
            member = member.__func__ if isinstance(member, (staticmethod, classmethod)) else member
            member = member.fget if isinstance(member, property) else member
            member = inspect.unwrap(member) if callable(member) else member
            if inspect.isfunction(member) and member.__module__ == module.__name__:
                yield member.__qualname__, member


FILES, LOCAL, THREADS = "atlas.storage.files", "atlas.storage.local", "atlas.threads"
COMMIT, COMPACTION, LEFTOVERS = "atlas.commit", "atlas.compaction", "atlas.leftovers"
COMMITFILES, REPAIR, ROOTS = "atlas.commitfiles", "atlas.repair", "atlas.roots"

POWER = [
    Mutant("directories are never synced", FILES, "        os.fsync(descriptor)\n", "        pass\n"),
    Mutant(
        "new directories are not synced",
        FILES,
        "        sync_directory(parent)\n",
        "        pass\n",
    ),
    Mutant("files are not synced", FILES, "            os.fsync(self._file.fileno())\n", ""),
    Mutant(
        "directories of data files are not synced",
        LOCAL,
        "            for_each(sync_directory, directories)\n",
        "            pass\n",
    ),
    Mutant(
        "the new root is not synced before it replaces the old",
        LOCAL,
        "            writer.write(data)\n            writer.finish()\n",
        "            writer.write(data)\n            writer._file.close()\n",
    ),
    Mutant(
        "the replacement is not synced",
        LOCAL,
        "                raise\n            sync_parent(place)\n",
        "                raise\n",
    ),
    Mutant(
        "the first root is not synced into its directory",
        LOCAL,
        "            sync_directory(self._path)\n            sync_ancestors",
        "            sync_ancestors",
    ),
    Mutant("what a creator made is not synced", LOCAL, "            self.sync_place()\n", ""),
    Mutant(
        "the directories above are left to chance",
        LOCAL,
        "            sync_ancestors(self._path)\n",
        "            pass\n",
    ),
    Mutant(
        "a removal is not synced",
        LOCAL,
        "            os.unlink(place)\n            sync_parent(place)\n",
        "            os.unlink(place)\n",
    ),
    Mutant(
        "data files are closed, not synced",
        FILES,
        '    """Finish a writer."""\n    writer.finish()\n',
        '    """Finish a writer."""\n    writer._file.close()\n',
    ),
    Mutant(
        "data files are synced, their directories are not",
        COMMITFILES,
        "        self._storage.sync_directories([key for key, _ in self._writers[self._durable :]])\n",
        "",
    ),
    Mutant(
        "what a dead writer made is relied on unsynced",
        LEFTOVERS,
        "    storage.sync_place()\n",
        "",
    ),
    Mutant(
        "old files are removed before the new root is there",
        COMMIT,
        "    published = replace(root, retired=sweep(storage, root, needed) + added)\n",
        "    published = replace(root, retired=sweep(storage, root, needed) + added)\n"
        "    for key in retired:\n        storage.purge(key)\n",
    ),
    Mutant(
        "the files of a commit are not synced",
        COMMIT,
        "        files.write_record(root, retired)\n        files.make_durable()\n",
        "        for _, writer in files._writers:\n            writer._file.flush()\n",
    ),
    Mutant(
        "the old root is removed before the new one is there",
        LOCAL,
        "                os.replace(beside, place)\n",
        "                os.unlink(place)\n                os.replace(beside, place)\n",
    ),
    Mutant(
        "compaction does not sync",
        COMPACTION,
        "        files.write_record(root, retired)\n        files.make_durable()\n",
        "        for _, writer in files._writers:\n            writer._file.flush()\n",
    ),
]

# Found where the power is cut in a repair.
REPAIRING = [
    Mutant(
        "what a repair writes is not synced",
        REPAIR,
        "        files.write_record(root, replaced)\n        files.make_durable()\n",
        "        for _, writer in files._writers:\n            writer._file.flush()\n",
    ),
    Mutant(
        "copies of what a repair replaces are not synced",
        LOCAL,
        "                self._copy(source, place)\n            sync_parent(place)\n",
        "                self._copy(source, place)\n",
    ),
]

# Found where a store is repaired after a cut, although that is not necessary.
RECORDING = [
    Mutant(
        "a record is there before its files",
        COMMITFILES,
        "        self.make_durable()\n        finished =",
        "        finished =",
    ),
    Mutant(
        "a root gives way to a commit whose files are missing",
        ROOTS,
        "    return came_after and (recorded.parent",
        "    return came_after or (recorded.parent",
    ),
]

# Found where a sync fails, or several threads sync at once.
SYNCING = [
    Mutant(
        "a sync that fails in a thread is not heard of",
        THREADS,
        "        raise errors[min(errors)]\n",
        "        return\n",
    ),
    Mutant(
        "threads that sync are not waited for",
        THREADS,
        "        insist(partial(finish, helping))\n    for error",
        "        pass\n    for error",
    ),
    Mutant(
        "a root whose directory could not be synced is taken for durable",
        COMMIT,
        "            raise\n        storage.replace(root_key(root.config), encode_root(published))\n",
        "            raise\n",
    ),
]


def survivors(mutants: list[Mutant], hunt: Callable[[], Any]) -> list[str]:
    """Return the mutants that `hunt`, which raises when it finds something wrong, does not find."""
    return [mutant.what for mutant in mutants if in_child(lambda m=mutant: _lives(m, hunt))]


# Which thread syncs what is up to the system: on a busy machine one may do all, and then none has to wait for another.
_ATTEMPTS = 3


def _lives(mutant: Mutant, hunt: Callable[[], Any]) -> bool:
    mutant.apply()
    for _ in range(_ATTEMPTS):
        try:
            hunt()
        except powerloss.Violation:
            return False
    return True


def hunt_power(work: Path) -> None:
    """Look for what a power cut could break, quickly."""
    hunt_syncing(work)
    powerloss.check_scenario(work, 1, 8)
    powerloss.check_kills(work, 1, 4, ("create", "create where another was killed", "flush of one array"))


def hunt_repairing(work: Path) -> None:
    """Look for what a power cut in a repair could break."""
    powerloss.check_repairs(work, 1, 1)


def hunt_recording(work: Path) -> None:
    """Look for what a repair after a power cut could break."""
    see = powerloss.repaired
    powerloss.check_kills(work, 1, 2, ["flush of one array"], see=see)
    powerloss.check_scenario(work, 1, 2, powerloss.WIDE_ACTS, see=see)


def hunt_syncing(work: Path) -> None:
    """Look for what a sync that fails could break, or one that nobody waits for."""
    powerloss.check_lost_syncs(work, 1, 1, ["flush side by side", "flush of what was written ahead"])
