"""The one place of compile policy: kernels are compiled once per machine and loaded as machine code.

Importing Numba and having it load one kernel from its own cache takes most of a second; loading an
object file with llvmlite a twentieth of that. So all kernels are compiled into one object file, kept
in the user's cache directory, and a process that finds it there never imports Numba. Kernels take
addresses and integers only and return an integer, so calling them needs no Numba either. ctypes
releases the GIL around a call: threads run kernels side by side.

An installation may bring its own object file, see :mod:`atlas.kernels.build`.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import xxhash

from atlas.forks import free_in_children

Function = TypeVar("Function", bound=Callable[..., Any])

_log = logging.getLogger("atlas")

# Every kernel, which is alone in the module of its name, and how many arguments it takes.
KERNELS = {
    "admit": 17,
    "digest": 6,
    "pack_rows": 14,
    "scatter": 20,
    "shuffle": 4,
    "unpack": 21,
}

# Nothing is ever called through Numba, so it need not make wrappers for that.
OPTIONS = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

_DIGEST_LENGTH = 8


def helper(function: Function) -> Function:
    """Make a function part of the kernels that call it."""
    from numba import njit

    return njit(**OPTIONS)(function)  # type: ignore[no-any-return]


class Library:
    """The kernels of this process, loaded on first use."""

    def __init__(self) -> None:
        self._lock = free_in_children(threading.Lock())
        self._functions: dict[str, Callable[..., int]] = {}
        self._engine: Any = None

    @property
    def is_loaded(self) -> bool:
        """Whether kernels can be called without further ado."""
        return bool(self._functions)

    def __getitem__(self, name: str) -> Callable[..., int]:
        if not self._functions:
            self.load()
        return self._functions[name]

    def load(self) -> None:
        """Load the kernels, compiling them first where this machine never did."""
        with self._lock:
            if not self._functions:
                self._link(_installed() or _cached() or _build())

    def _link(self, code: bytes) -> None:
        binding = llvm()
        machine = binding.Target.from_triple(binding.get_process_triple()).create_target_machine()
        # The engine owns the machine code, and lives as long as the process. Of one piece of memory: parts more than
        # 2 GiB apart, as they may be where much is mapped, would end the process.
        self._engine = binding.create_mcjit_compiler(binding.parse_assembly(""), machine, use_lmm=True)
        self._engine.add_object_file(binding.object_file.ObjectFileRef.from_data(code))
        self._engine.finalize_object()
        self._functions = {
            name: _callable(self._engine.get_function_address(symbol(name)), count) for name, count in KERNELS.items()
        }


def llvm() -> Any:
    """Return LLVM, ready for this machine."""
    from llvmlite import binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    return binding


def symbol(name: str) -> str:
    """Return what a kernel is called in the object file."""
    return f"atlas_kernel_{name}"


def _callable(address: int, count: int) -> Callable[..., int]:
    # Numba's convention: where the result goes, where an exception would go (kernels raise none), the arguments.
    native = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * count)(address)

    def call(*arguments: int) -> int:
        result, unused = ctypes.c_int64(), ctypes.c_void_p()
        native(ctypes.addressof(result), ctypes.addressof(unused), *arguments)
        return result.value

    return call


# ── the object file ──────────────────────────────────────────────────────────────────────────────


def cache_directory() -> Path:
    """Return where compiled kernels are kept: ``ATLAS_CACHE_DIR``, or the user's cache directory."""
    base = os.environ.get("ATLAS_CACHE_DIR")
    if base:
        return Path(base)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "atlas"


@cache
def _sources_digest() -> str:
    digest = xxhash.xxh3_64()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _place() -> Path:
    """Return the object file's place, named by all that its content depends on."""
    binding = llvm()
    processor = (binding.get_process_triple(), binding.get_host_cpu_name(), binding.get_host_cpu_features().flatten())
    digest = xxhash.xxh3_64_hexdigest(repr((processor, binding.llvm_version_info)).encode())
    return cache_directory() / f"kernels-{_sources_digest()}-{digest}.o"


def may_be_compiled() -> bool:
    """Return whether kernels of this release came with it or were compiled here before, without loading anything."""
    try:
        return _installed_place().exists() or any(cache_directory().glob(f"kernels-{_sources_digest()}-*.o"))
    except (OSError, RuntimeError):
        return False  # it cannot be looked at, or the user has no home


def _installed_place() -> Path:
    return Path(__file__).parent / f"kernels-{_sources_digest()}.o"


def abilities() -> set[str]:
    """Return what machine code may make use of here."""
    binding = llvm()
    architecture = binding.get_process_triple().partition("-")[0]
    return {sys.platform, architecture, *(name for name, has in binding.get_host_cpu_features().items() if has)}


def _installed() -> bytes | None:
    """Return the object file that this installation brought, where all that it makes use of is there."""
    try:
        data = _whole(_installed_place().read_bytes())
    except OSError:
        return None
    needs, _, code = (data or b"").partition(b"\n")
    return code if needs and set(needs.decode().split()) <= abilities() else None


def install(directory: Path) -> None:
    """Write an object file that an installation on this machine may bring, compiled anew where none is cached."""
    from atlas.kernels.build import compile_kernels

    data = " ".join(sorted(abilities())).encode() + b"\n" + (_cached() or compile_kernels())
    (directory / _installed_place().name).write_bytes(xxhash.xxh3_64_digest(data) + data)


def _whole(data: bytes) -> bytes | None:
    digest, content = data[:_DIGEST_LENGTH], data[_DIGEST_LENGTH:]
    return content if xxhash.xxh3_64_digest(content) == digest else None


def _cached() -> bytes | None:
    try:
        with open(_place(), "rb") as file:
            state = os.fstat(file.fileno())
            # Machine code is only taken from a file that nobody else can write.
            if hasattr(os, "geteuid") and (state.st_uid not in (os.geteuid(), 0) or state.st_mode & 0o022):
                return None
            return _whole(file.read())
    except (OSError, RuntimeError):
        return None  # not there, not readable, or the user has no home


def _build() -> bytes:
    """Compile the kernels, and keep the object file where that is possible."""
    from atlas.kernels.build import compile_kernels

    began = time.perf_counter()
    code = compile_kernels()
    _log.info("compiled the kernels in %.1f s", time.perf_counter() - began)
    try:
        _keep(_place(), xxhash.xxh3_64_digest(code) + code)
    except (OSError, RuntimeError) as error:
        _log.warning("compiled kernels cannot be kept (%s); set ATLAS_CACHE_DIR to a directory for them", error)
    return code


def _keep(place: Path, data: bytes) -> None:
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=place.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(beside, place)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


library = Library()
