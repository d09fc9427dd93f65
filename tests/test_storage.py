"""The storage room: what is durable, what excludes whom, and what never leads out of a store."""

from __future__ import annotations

import errno
import gc
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from atlas.errors import ConflictError, CorruptStore, InvalidArgument, ReadOnlyStore, StorageError, StoreNotFound
from atlas.storage import LocalStorage, Storage, array_directory, files, local, locks, open_storage, pins
from atlas.storage.remote import RemoteStorage
from atlas.storage.requests import Requests

KEY = "t/data-1.af"
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
needs_flock = pytest.mark.skipif(not locks.has_flock, reason="no flock here")
needs_pins = pytest.mark.skipif(not locks.has_ofd_locks, reason="no locks on open file descriptions here")


@pytest.fixture(params=["path", "filesystem", "memory"])
def storage(request, tmp_path: Path):
    if request.param == "path":
        yield open_storage(tmp_path / "s")
    elif request.param == "filesystem":
        yield open_storage(LocalFileSystem(), str(tmp_path / "s"))
    else:
        yield open_storage(f"memory://{tmp_path.name}/s")
        fsspec.filesystem("memory").rm("/", recursive=True)


@pytest.fixture
def here(tmp_path: Path) -> LocalStorage:
    """A local store whose lock file is there."""
    store = LocalStorage(str(tmp_path / "s"))
    store.begin_creating([])
    with store.writer_lock():
        store.create_exclusive("atlas.json", b"{}")
    return store


def put(store: Storage, key: str = KEY, data: bytes = bytes(range(100))) -> None:
    writer = store.create(key)
    writer.write(data[:40])
    writer.write(memoryview(data[40:]))
    assert writer.position == len(data)
    writer.finish()
    store.sync_directories([key])


def in_child(action) -> int:
    child = os.fork()
    if child == 0:
        status = 99
        try:
            status = int(action())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def holder(text: str, place: str) -> subprocess.Popen:
    """Another process that says "held" once it holds what the text says."""
    text = (
        "import sys, time\nfrom atlas.storage import open_storage\ns = open_storage(sys.argv[1])\n"
        + textwrap.dedent(text)
    )
    root = Path(__file__).parents[1]
    process = subprocess.Popen([sys.executable, "-c", text, place], stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout.readline() == "held\n"
    return process


# --- what every storage does


def test_objects_come_back_whole_and_in_parts(storage):
    put(storage)
    assert storage.exists(KEY)
    assert not storage.exists("t/other.af")
    assert storage.read(KEY) == bytes(range(100))
    assert storage.read_range(KEY, 10, 5) == bytes(range(10, 15))
    assert storage.list_dir("t") == ["data-1.af"]
    assert storage.list_dir("nowhere") == []
    storage.delete(KEY)
    storage.delete(KEY)
    assert not storage.exists(KEY)


def test_a_short_object_is_damage_and_an_absent_one_is_missing(storage):
    put(storage)
    with pytest.raises(CorruptStore, match="truncated"):
        storage.read_range(KEY, 90, 11)
    for call in (lambda: storage.read("no"), lambda: storage.read_range("a/no", 0, 1)):
        with pytest.raises(FileNotFoundError):
            call()


def test_the_root_is_made_once_and_replaced(storage):
    storage.create_exclusive("atlas.json", b"1")
    with pytest.raises(FileExistsError):
        storage.create_exclusive("atlas.json", b"2")
    assert storage.read("atlas.json") == b"1"
    storage.replace("atlas.json", b"3")
    assert storage.read("atlas.json") == b"3"
    assert storage.list_dir("") == ["atlas.json"]


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/", "a\0b"])
def test_keys_stay_in_the_store(storage, key):
    for call in (storage.read, storage.create, storage.delete, storage.exists, storage.purge):
        with pytest.raises(InvalidArgument):
            call(key)


def test_aborted_objects_are_gone(storage):
    writer = storage.create(KEY)
    writer.write(b"half")
    writer.abort()
    assert not storage.exists(KEY)


def test_retired_objects_are_found_until_purged(storage):
    put(storage)
    storage.retire(KEY)
    storage.retire(KEY)
    assert storage.size(KEY) == 100
    assert storage.read_range(KEY, 1, 2) == b"\1\2"
    storage.purge(KEY)
    storage.purge(KEY)
    with pytest.raises(FileNotFoundError):
        storage.read_range(KEY, 0, 100)


def test_storages_pickle(storage):
    put(storage)
    again = pickle.loads(pickle.dumps(storage))
    assert again.read(KEY) == storage.read(KEY)
    assert again.describe() == storage.describe()
    with again.writer_lock(), pytest.raises(ConflictError, match="this thread"), storage.writer_lock(timeout=0):
        pass


def test_one_writer_among_threads(storage):
    storage.begin_creating([])
    inside = []

    def work() -> None:
        for _ in range(20):
            with storage.writer_lock():
                inside.append(1)
                assert len(inside) == 1
                inside.pop()

    failed = []
    threading.excepthook, kept = lambda args: failed.append(args.exc_value), threading.excepthook
    try:
        threads = [threading.Thread(target=work) for _ in range(6)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    finally:
        threading.excepthook = kept
    assert failed == []


@needs_fork
def test_a_forked_child_reads_and_locks(storage):
    put(storage)
    with storage.writer_lock():
        pass
    assert in_child(lambda: 0 if storage.read(KEY) == bytes(range(100)) and enter(storage) else 1) == 0


def enter(store: Storage) -> bool:
    with store.writer_lock(timeout=5):
        return True


# --- which storage


def test_what_opens_where(tmp_path):
    for source in (tmp_path, str(tmp_path), f"file://{tmp_path}"):
        assert open_storage(source).local_path == str(tmp_path)
    assert open_storage(tmp_path, "sub").local_path == str(tmp_path / "sub")
    assert open_storage(LocalFileSystem(), str(tmp_path)).is_local
    memory = open_storage("memory://x", "y")
    assert isinstance(memory, RemoteStorage)
    assert memory.describe() == "memory://x/y"
    for bad in ("", 3, None, b"bytes", "nothing-like-it://x", "a\0b", "memory://a\0b"):
        with pytest.raises(InvalidArgument):
            open_storage(bad)
    with pytest.raises(InvalidArgument):
        open_storage(tmp_path, storage_options={"key": "1"})


# --- local: order, durability, links


def traced(monkeypatch) -> list[str]:
    """Names of the calls that change the file system, in order."""
    calls: list[str] = []
    for name in ("fsync", "replace", "link", "unlink", "mkdir", "rename"):
        original = getattr(os, name)

        def call(*args, _name=name, _original=original, **kwargs):
            directory = _name == "fsync" and os.path.isdir(f"/proc/self/fd/{args[0]}")
            calls.append("fsync directory" if directory else _name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(os, name, call)
    return calls


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="cannot tell what a descriptor is")
def test_every_change_is_synced_in_order(here, monkeypatch):
    calls = traced(monkeypatch)
    here.replace("atlas.json", b"new")
    assert calls == ["fsync", "replace", "fsync directory"]
    calls.clear()
    here.create_exclusive("atlas.msgpack", b"new")
    assert calls[:5] == ["fsync", "link", "unlink", "fsync directory", "fsync directory"]
    assert set(calls[5:]) <= {"fsync directory"}, "the directories above"
    calls.clear()
    put(here)
    assert calls == ["mkdir", "fsync directory", "fsync", "fsync directory"]
    calls.clear()
    put(here, "t/data-2.af")
    assert calls == ["fsync", "fsync directory"]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failed_replacement_leaves_the_old_root(here, monkeypatch, name):
    def fail(*args: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, name, fail)
        with pytest.raises(StorageError, match="Input/output error"):
            here.replace("atlas.json", b"new")
    assert here.read("atlas.json") == b"{}"
    assert here.list_dir("") == [".atlas.lock", "atlas.json"]


def test_a_failed_sync_of_data_is_final(here, monkeypatch):
    def fail(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = here.create(KEY)
    writer.write(b"data")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="No space left"):
        writer.finish()
    writer.abort()
    assert not here.exists(KEY)


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_hard_links(tmp_path, monkeypatch, code):
    def fail(*args: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", fail)
    store = LocalStorage(str(tmp_path / "s"))
    store.create_exclusive("atlas.json", b"1")
    with pytest.raises(FileExistsError):
        store.create_exclusive("atlas.json", b"2")
    assert store.read("atlas.json") == b"1"
    assert store.list_dir("") == ["atlas.json"]


def test_where_directories_cannot_be_synced(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "can_sync_directories", False)
    store = LocalStorage(str(tmp_path / "s"))
    store.create_exclusive("atlas.json", b"1")
    put(store)
    assert store.read(KEY) == bytes(range(100))


def test_new_files_never_overwrite(here):
    put(here)
    with pytest.raises(FileExistsError):
        here.create(KEY)
    assert here.read(KEY) == bytes(range(100))


def test_a_directory_purged_in_between_is_made_again(here, monkeypatch):
    original = files.make_directories
    emptied = []

    def make_and_lose(path: str) -> None:
        original(path)
        if not emptied:
            emptied.append(path)
            os.rmdir(path)

    monkeypatch.setattr(files, "make_directories", make_and_lose)
    put(here)
    assert emptied
    assert here.read(KEY) == bytes(range(100))


def test_links_out_of_the_store_are_not_followed(here, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "data-1.af").write_bytes(b"secret")
    os.symlink(outside, tmp_path / "s" / "t")
    os.symlink(outside / "data-1.af", tmp_path / "s" / "atlas.msgpack")
    for call in (
        lambda: here.read("atlas.msgpack"),
        lambda: here.replace("atlas.msgpack", b""),
        lambda: here.read_range(KEY, 0, 1),
        lambda: here.create("t/new.af"),
        lambda: here.purge(KEY),
    ):
        with pytest.raises(CorruptStore, match="symbolic link"):
            call()
    assert here.list_dir("t") == []
    assert (outside / "data-1.af").read_bytes() == b"secret"


@needs_flock
def test_a_linked_lock_file_leaves_its_target_alone(tmp_path):
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "s").mkdir()
    os.symlink(victim, tmp_path / "s" / ".atlas.lock")
    store = LocalStorage(str(tmp_path / "s"))
    with pytest.raises(StorageError), store.writer_lock():
        pass
    assert victim.read_bytes() == b"precious"


def test_errors_name_the_place_in_one_line(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    store = LocalStorage(str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"file") as caught, store.writer_lock():
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_where_nothing_can_be_written(here, monkeypatch, code):
    original = os.open

    def refuse(path, flags, *args, **kwargs):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(code, os.strerror(code), path)
        return original(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", refuse)
    for call in (
        lambda: here.create(KEY),
        lambda: here.replace("atlas.json", b""),
        lambda: here.writer_lock().__enter__(),
    ):
        with pytest.raises(ReadOnlyStore):
            call()
    assert here.read("atlas.json") == b"{}"
    here.pin(1).release()


@needs_flock
def test_a_place_that_goes_while_it_is_written_to_is_an_error_of_ours(here, monkeypatch):
    """What the caller asked for is not what is missing."""
    put(here)
    os.rename(here.local_path, here.local_path + ".gone")

    def gone(*args: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    monkeypatch.setattr(files.os, "mkdir", gone)
    for call in (
        here.sync_place,
        lambda: here.sync_directories([KEY]),
        lambda: here.make_directories(["t"]),
        lambda: here.replace("atlas.json", b""),
        lambda: here.create_exclusive("atlas.json", b""),
        lambda: here.create(KEY),
    ):
        with pytest.raises(StorageError, match=r"s.*: No such file or directory"):
            call()


@needs_flock
def test_who_waits_for_a_store_that_is_removed_is_told(here):
    def wait() -> int:
        try:
            with here.writer_lock():
                return 1
        except StoreNotFound as error:
            return 0 if "its directory is gone" in str(error) else 2

    with here.writer_lock():
        child = os.fork()
        if not child:
            os._exit(wait())
        time.sleep(0.2)
        os.rename(here.local_path, here.local_path + ".gone")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@needs_flock
def test_a_lock_file_that_cannot_be_closed_well_is_closed(here, monkeypatch):
    """The commit has happened by then."""

    class Failing(FileIO):
        def close(self) -> None:
            super().close()
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(locks, "_open_inherited", lambda path: Failing(path, "r+"))
    for _ in range(2):
        with here.writer_lock(timeout=0) as interrupted:
            assert not interrupted


@pytest.mark.parametrize("name", ["s", "s/below"])
def test_a_link_that_leads_nowhere_is_no_place_for_a_store(tmp_path, name):
    (tmp_path / "s").symlink_to(tmp_path / "nowhere")
    with pytest.raises(StorageError, match="No such file"):
        LocalStorage(str(tmp_path / name)).begin_creating([])
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_directory(here):
    os.chmod(here.local_path, 0o555)
    try:
        with pytest.raises(ReadOnlyStore):
            here.replace("atlas.json", b"")
        assert here.read("atlas.json") == b"{}"
        here.pin(1).release()
    finally:
        os.chmod(here.local_path, 0o755)


# --- the writer lock between processes


@needs_flock
def test_another_process_excludes_until_it_is_killed(here):
    other = holder("with s.writer_lock():\n    print('held', flush=True)\n    time.sleep(60)", here.local_path)
    with pytest.raises(ConflictError, match="another process"), here.writer_lock(timeout=0.05):
        pass
    other.kill()
    other.wait()
    other.stdout.close()
    with here.writer_lock(timeout=5) as interrupted:
        assert interrupted, "the killed writer may have left something"
    with here.writer_lock() as interrupted:
        assert not interrupted


@needs_flock
def test_a_failed_writer_is_told_to_the_next(here):
    with pytest.raises(ZeroDivisionError), here.writer_lock():
        raise ZeroDivisionError
    with here.writer_lock() as interrupted:
        assert interrupted


@needs_flock
def test_the_mark_needs_no_room_on_a_full_disk(here, monkeypatch):
    """Where there is none for a first byte, whoever frees some must be able to begin."""
    original = os.pwrite

    def write(descriptor: int, data: bytes, offset: int) -> int:
        if os.fstat(descriptor).st_size < offset + len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", write)
    assert not here.was_interrupted()
    with here.writer_lock() as interrupted:
        assert not interrupted
        assert here.was_interrupted()
    assert not here.was_interrupted()


@needs_fork
@needs_flock
def test_a_forked_child_keeps_no_lock(here):
    ready, go = os.pipe(), os.pipe()
    with here.writer_lock():
        child = os.fork()
        if child == 0:
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
    with here.writer_lock(timeout=1) as interrupted:
        assert not interrupted
    os.write(go[1], b"x")
    os.waitpid(child, 0)
    [os.close(descriptor) for descriptor in (*ready, *go)]


@needs_fork
@needs_flock
def test_a_child_that_leaves_the_parents_lock_changes_nothing(here):
    def leave() -> int:
        held.__exit__(None, None, None)
        return 0

    held = here.writer_lock()
    held.__enter__()
    assert in_child(leave) == 0
    size = os.path.getsize(os.path.join(here.local_path, ".atlas.lock"))
    other = in_child(lambda: refused(here))
    held.__exit__(None, None, None)
    assert (size, other) == (1, 0)


def refused(store: Storage) -> int:
    try:
        with store.writer_lock(timeout=0.05):
            return 1
    except ConflictError:
        return 0


@needs_flock
def test_a_lock_on_a_removed_store_excludes_nobody_from_the_new_one(here):
    path = os.path.join(here.local_path, ".atlas.lock")
    original = locks._open_inherited
    stale = []

    def open_and_lose(place: str) -> FileIO:
        file = original(place)
        if not stale:
            stale.append(os.fstat(file.fileno()).st_ino)
            os.unlink(path)
        return file

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(locks, "_open_inherited", open_and_lose)
        with here.writer_lock(timeout=5):
            assert os.path.exists(path)
            assert in_child(lambda: refused(here)) == 0
    assert stale


def test_without_flock_threads_still_exclude(here, monkeypatch):
    monkeypatch.setattr(locks, "has_flock", False)
    with here.writer_lock() as interrupted:
        assert interrupted
        with pytest.raises(ConflictError), here.writer_lock(timeout=0):
            pass


# --- pins


@needs_pins
def test_pins_are_seen_from_everywhere(here):
    first, second = here.pin(4), here.pin(4)
    later = here.pin(9)
    for below, held in ((0, False), (4, False), (5, True), (9, True)):
        assert here.is_pinned(below) is held
        assert in_child(lambda b=below, h=held: here.is_pinned(b) is not h) == 0
    first.release()
    first.release()
    assert here.is_pinned(5)
    del second
    gc.collect()
    assert not here.is_pinned(9)
    assert here.is_pinned(10)
    later.release()
    assert not here.is_pinned(10)


@needs_pins
def test_pins_die_with_their_process(here):
    other = holder("pin = s.pin(3)\nprint('held', flush=True)\ntime.sleep(60)", here.local_path)
    assert here.is_pinned(4)
    other.kill()
    other.wait()
    other.stdout.close()
    assert not here.is_pinned(4)


@needs_pins
@needs_fork
def test_a_childs_copy_of_a_pin_is_not_the_childs_to_release(here):
    pin = here.pin(2)
    assert in_child(lambda: pin.release() or 0) == 0
    assert here.is_pinned(3)
    assert in_child(lambda: own_pin(here)) == 0
    pin.release()
    assert not here.is_pinned(3)


@needs_pins
@needs_fork
@pytest.mark.parametrize("can_open", [True, False])
def test_a_forked_child_has_a_pin_of_its_own(here, monkeypatch, can_open):
    """What its parent gives up is still the child's, until that ends; where it can have none, it has none."""
    pin, given_up = here.pin(2), here.pin(1)
    given_up.release()
    told, tells = os.pipe()
    waits, goes = os.pipe()
    with monkeypatch.context() as patch:
        if not can_open:
            patch.setattr(pins, "_READING", os.O_WRONLY | os.O_DIRECTORY)
        child = os.fork()
    if child == 0:
        os.write(tells, b"forked")
        os.close(goes)
        os.read(waits, 1)
        pin.release()
        os._exit(0)
    assert os.read(told, 6) == b"forked"
    pin.release()
    assert here.is_pinned(3) is can_open
    assert not here.is_pinned(2)
    os.close(goes)
    assert os.waitpid(child, 0)[1] == 0
    assert not here.is_pinned(3)
    for end in (told, tells, waits):
        os.close(end)


def own_pin(store: Storage) -> int:
    pin = store.pin(1)
    seen = store.is_pinned(2)
    pin.release()
    return 0 if seen and not store.is_pinned(2) else 1


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="cannot count descriptors")
def test_pins_cost_one_descriptor_per_store_and_none_afterwards(tmp_path):
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    stores = []
    for i in range(5):
        store = LocalStorage(str(tmp_path / str(i)))
        store.begin_creating([])
        with store.writer_lock():
            pass
        stores.append(store)
    pins = [store.pin(i) for i in range(100) for store in stores]
    assert len(os.listdir("/proc/self/fd")) <= before + 5
    del pins
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


@needs_pins
def test_pins_follow_the_store_not_the_path(here):
    old = here.pin(1)
    os.rename(here.local_path, here.local_path + ".old")
    here.begin_creating([])
    with here.writer_lock():
        pass
    assert not here.is_pinned(5)
    new = here.pin(1)
    assert here.is_pinned(5)
    old.release()
    assert here.is_pinned(5)
    new.release()


@needs_pins
def test_a_pin_dropped_by_the_collector_in_the_middle_of_another(here, monkeypatch):
    first, kept = here.pin(1), here.pin(2)
    original = pins.PinBoard._set

    def collect_first(board: pins.PinBoard, kind: int, generation: int) -> None:
        nonlocal first
        first = None  # as the collector may do at any time, in this very thread
        original(board, kind, generation)

    monkeypatch.setattr(pins.PinBoard, "_set", collect_first)
    last = here.pin(3)
    assert not here.is_pinned(2)
    assert here.is_pinned(3)
    kept.release()
    last.release()
    assert not here.is_pinned(9)


@needs_pins
def test_pins_in_a_circle_go_with_it(here):
    circle = [here.pin(3)]
    circle.append(circle)
    del circle
    assert here.is_pinned(4)
    gc.collect()
    assert not here.is_pinned(4)


def test_where_there_are_no_pins_somebody_may_be_reading(here, monkeypatch):
    monkeypatch.setattr(locks, "has_ofd_locks", False)
    here.pin(1).release()
    assert here.is_pinned(1) is None


def test_without_a_lock_file_pins_hold_nothing(tmp_path):
    store = LocalStorage(str(tmp_path))
    store.pin(1).release()
    assert store.is_pinned(2) is None
    assert os.listdir(tmp_path) == []


# --- remote


class Refusing(fsspec.AbstractFileSystem):
    """A file system whose every call fails with one error."""

    protocol = "refusing"
    cachable = False
    error: BaseException = OSError(errno.EIO, "the line\nis dead")

    def cat_file(self, path, start=None, end=None, **kwargs):
        raise self.error

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        raise self.error


def test_foreign_errors_become_ours_in_one_line():
    store = RemoteStorage(Refusing(), "bucket/s")
    with pytest.raises(StorageError, match="the line is dead"):
        store.read("atlas.json")
    with pytest.raises(StorageError, match="refusing://bucket/s"):
        store.replace("atlas.json", b"")
    botocore = pytest.importorskip("botocore.exceptions")
    store = RemoteStorage(Refusing(), "bucket/s")
    store._requests.filesystem.error = botocore.NoCredentialsError()
    with pytest.raises(StorageError, match="credentials"):
        store.read("atlas.json")
    store._requests.filesystem.error = PermissionError("Forbidden")
    with pytest.raises(ReadOnlyStore):
        store.replace("atlas.json", b"")


def test_the_lock_of_a_remote_store_does_not_depend_on_the_working_directory(tmp_path, monkeypatch):
    with open_storage("memory://x/s").writer_lock():
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ConflictError), open_storage("memory://x/s").writer_lock(timeout=0):
            pass


@needs_fork
def test_a_forked_child_makes_its_own_connections():
    requests = Requests(Refusing(marker=1), "x")
    mine = requests.client
    assert requests.client is mine

    def differs() -> bool:
        return requests.client is not mine and requests.filesystem.storage_options == {"marker": 1}

    assert in_child(lambda: not differs()) == 0


# --- disks that cannot, or will not


@pytest.mark.parametrize("code", [errno.EPERM, errno.EXDEV, errno.EMLINK])
def test_what_is_kept_is_copied_where_files_cannot_be_linked(tmp_path, monkeypatch, code):
    store = LocalStorage(str(tmp_path))
    put(store, data=b"x" * 3_000_000)

    def refuse(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    store.keep_copy(KEY, f"_damaged/0/{KEY}")
    assert store.read(f"_damaged/0/{KEY}") == b"x" * 3_000_000


@pytest.mark.parametrize("failing", ["link", "write"])
def test_a_copy_that_fails_is_an_error_and_leaves_nothing(tmp_path, monkeypatch, failing):
    store = LocalStorage(str(tmp_path))
    put(store, data=b"x" * 3_000_000)

    def refuse(*args):
        raise OSError(errno.EPERM if failing == "write" else errno.EIO, "refused")

    def full(*args):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "link", refuse)
    if failing == "write":
        monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError):
        store.keep_copy(KEY, f"kept/0/{KEY}")
    assert not store.exists(f"kept/0/{KEY}")


@pytest.mark.parametrize(("code", "matters"), [(errno.EINVAL, False), (errno.EROFS, False), (errno.EIO, True)])
def test_file_systems_that_cannot_sync_directories(tmp_path, monkeypatch, code, matters):
    store = LocalStorage(str(tmp_path))
    put(store)

    def refuse(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    if matters:
        with pytest.raises(StorageError):
            store.sync_directories([KEY])
    else:
        store.sync_directories([KEY])


def test_one_failed_sync_among_many_is_an_error(tmp_path, monkeypatch):
    store = LocalStorage(str(tmp_path))
    keys = [f"d{i}/data-{i:032x}.af" for i in range(40)]
    for key in keys:
        put(store, key)
    original = local.sync_directory

    def fail_for_one(path):
        if path.endswith("d17"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        original(path)

    monkeypatch.setattr(local, "sync_directory", fail_for_one)
    with pytest.raises(StorageError, match="Input/output error"):
        store.sync_directories(keys)


def test_a_store_below_a_file_is_none(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileNotFoundError):
        LocalStorage(str(tmp_path / "file")).read("atlas.json")


def test_nobody_was_interrupted_where_nobody_has_written(tmp_path):
    assert not LocalStorage(str(tmp_path)).was_interrupted()


def test_what_there_is_is_listed_with_its_size_but_links_are_not(tmp_path):
    store = LocalStorage(str(tmp_path))
    put(store, data=b"abc")
    (tmp_path / "link").symlink_to(tmp_path / KEY)
    assert [(item.key, item.size) for item in store.inventory()] == [(KEY, 3)]


@needs_fork
@needs_flock
def test_a_lock_file_that_went_while_somebody_waited_for_it_locks_nobody_out(tmp_path):
    """The store was removed and made anew: who waited takes the lock of what is there now."""
    path = tmp_path / locks.LOCK_NAME

    def wait() -> bool:
        with LocalStorage(str(tmp_path)).writer_lock():
            return not path.exists()

    with LocalStorage(str(tmp_path)).writer_lock():
        child = os.fork()
        if not child:
            os._exit(wait())
        time.sleep(0.2)
        path.unlink()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def flock_of_every_byte(monkeypatch) -> None:
    """Locks of files are locks of all their bytes, as they are on network file systems."""

    def lock_all(file: int | FileIO, operation: int) -> None:
        kind = locks.fcntl.F_UNLCK if operation & locks.fcntl.LOCK_UN else locks.fcntl.F_WRLCK
        locks.fcntl.fcntl(file, locks.fcntl.F_OFD_SETLK, locks._flock(kind, 0, 0))

    monkeypatch.setattr(locks.fcntl, "flock", lock_all)


@needs_pins
@needs_fork
def test_readers_hinder_no_writer_where_a_lock_of_a_file_is_of_every_byte(here, flock_of_every_byte):
    pin = here.pin(1)
    with here.writer_lock(timeout=0.05):
        assert in_child(lambda: not here.is_pinned(2)) == 0
        late = here.pin(3)
        assert in_child(lambda: here.pin(5).release() or 0) == 0
    pin.release()
    assert here.is_pinned(4)
    late.release()
    assert not here.is_pinned(4)


@needs_pins
@needs_fork
def test_writers_wait_in_turn_where_a_lock_of_a_file_is_of_every_byte(here, flock_of_every_byte):
    """They exclude each other, who waits comes next, and one that was killed is told of."""
    pin, order = here.pin(1), Path(here.local_path, "order")

    def wait() -> int:
        with here.writer_lock(timeout=10):
            order.write_text(order.read_text() + "child ")
        return 0

    def die() -> None:
        with here.writer_lock():
            os._exit(1)

    with here.writer_lock():
        order.write_text("")
        assert in_child(lambda: refused(here)) == 0
        child = os.fork()
        if not child:
            os._exit(wait())
        time.sleep(0.2)
    with here.writer_lock(timeout=10):
        order.write_text(order.read_text() + "parent")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert order.read_text() == "child parent"
    assert in_child(die) == 1
    with here.writer_lock(timeout=1) as interrupted:
        assert interrupted
    pin.release()


@pytest.fixture
def no_locks(monkeypatch) -> Callable[[int], None]:
    """Has every lock answer that there are none, in the system's words."""

    def refuse(code: int) -> None:
        def answer(*args: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(locks.fcntl, "flock", answer)
        monkeypatch.setattr(locks.fcntl, "fcntl", answer)

    locks._warn_of_no_locks.cache_clear()
    return refuse


@needs_flock
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_for_one_writer_and_says_so(here, no_locks, caplog, code):
    no_locks(code)
    pin = here.pin(1)
    for _ in range(2):
        with here.writer_lock(timeout=0) as interrupted:
            assert not interrupted
            with pytest.raises(ConflictError, match="this thread"), here.writer_lock(timeout=0):
                pass
    assert [record.message for record in caplog.records] == [
        f"{here.local_path}: this file system has no locks, so nothing keeps two writers apart: let only one write"
    ]
    pin.release()
    assert here.is_pinned(2) is None


@needs_flock
@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EIO])
def test_a_lock_that_fails_is_no_leave_to_write(here, no_locks, code):
    """Others may have it, as when the server that knows is away for a moment."""
    no_locks(code)
    with pytest.raises(StorageError, match=os.strerror(code)), here.writer_lock(timeout=0):
        pass


@needs_pins
def test_a_reader_that_cannot_claim_its_files_is_told(here, monkeypatch):
    """Whether there is no descriptor left, or the disk fails: writers would take them away."""
    for name, code in (("open", errno.EMFILE), ("open", errno.EIO), ("fcntl", errno.EAGAIN), ("fcntl", errno.ENOMEM)):

        def fail(*args: object, code: int = code) -> None:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(locks.os if name == "open" else locks.fcntl, name, fail)
            with pytest.raises(StorageError, match="claiming the files of .*: " + os.strerror(code)):
                here.pin(1)
    here.pin(1).release()


@pytest.mark.parametrize(("code", "next_in_turn"), [(errno.EAGAIN, False), (errno.EINVAL, True)])
def test_without_locks_of_bytes_the_quickest_is_next(tmp_path, monkeypatch, code, next_in_turn):
    def refuse(*args):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks.fcntl, "fcntl", refuse)
    assert locks._be_next(0, True) is next_in_turn
    monkeypatch.setattr(locks, "has_ofd_locks", False)
    assert locks._be_next(0, True)


# --- names of directories


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("temperature", "temperature"),
        ("sea water/°C", "sea water%2F%C2%B0C"),
        ("..", "%2E%2E"),
        (".hidden.", "%2Ehidden%2E"),
        ("a%2F", "a%252F"),
        ("atlas.json", "%61tlas.json"),
        ("_retired", "%5Fretired"),
        ("_Damaged", "%5FDamaged"),
        ("_catalog", "%5Fcatalog"),
        ("_probe", "%5Fprobe"),
        ("con", "%63on"),
        ("NUL.txt", "%4EUL.txt"),
        ("a\0b\\c:d", "a%00b%5Cc%3Ad"),
    ],
)
def test_directory_names(name, directory):
    assert array_directory(name) == directory


def test_directory_names_never_clash():
    taken: set[str] = set()
    names = [
        "Temp",
        "temp",
        "TEMP",
        "é",
        "e\u0301",
        "x" * 500,
        "x" * 501,
        "X" * 500,
        "con",
        "CON",
        "con ",
        "a/b",
        "a%2Fb",
    ]
    for name in names:
        directory = array_directory(name, taken)
        assert directory.casefold() not in taken
        assert len(directory) <= 180
        assert directory.isascii()
        assert "/" not in directory
        taken.add(directory.casefold())
