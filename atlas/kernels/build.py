"""Compile the kernels: Numba makes LLVM's code of them, which is optimised once, all together.

Numba optimises every helper by itself, then again within each of its callers, and makes machine code of all that:
twice the time, for kernels that are no faster.

``python -m atlas.kernels.build DIRECTORY`` writes the object file that an installation brings; without a directory, it
is compiled into the user's cache.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from numba import njit, types
from numba.core import config
from numba.core.compiler_lock import global_compiler_lock

from atlas.kernels.compile import KERNELS, OPTIONS, install, library, llvm, symbol


def compile_kernels() -> bytes:
    """Return the object file of all kernels, for this machine."""
    binding = llvm()
    with _unoptimised():
        whole, *others = (_module_of(name, count) for name, count in KERNELS.items())
    for module in others:
        whole.link_in(module)
    machine = binding.Target.from_triple(binding.get_process_triple()).create_target_machine(
        cpu=binding.get_host_cpu_name(),
        features=binding.get_host_cpu_features().flatten(),
        opt=3,
        reloc="pic",
        codemodel="default",
    )
    options = binding.create_pipeline_tuning_options(speed_level=3)
    options.loop_vectorization = options.slp_vectorization = True
    builder = binding.create_pass_builder(machine, options)
    builder.getModulePassManager().run(whole, builder)
    return bytes(machine.emit_object(whole))


@contextmanager
def _unoptimised() -> Iterator[None]:
    """Have Numba leave optimising to us; functions of others wait meanwhile."""
    with global_compiler_lock:
        before = config.OPT
        config.OPT = type(before)(0)
        try:
            yield
        finally:
            config.OPT = before


def _module_of(name: str, count: int) -> Any:
    function = getattr(import_module(f"atlas.kernels.{name}"), name)
    signature = types.int64(*[types.int64] * count)
    compiled = njit(signature, **OPTIONS)(function)
    mangled = compiled.overloads[signature.args].fndesc.llvm_func_name
    return llvm().parse_assembly(compiled.inspect_llvm(signature.args).replace(mangled, symbol(name)))


if __name__ == "__main__":
    if sys.argv[1:]:
        install(Path(sys.argv[1]))
    else:
        library.load()
