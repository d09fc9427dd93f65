"""What the loops need of raw memory: typed pointers, and integer arithmetic that stays in its width.

Numba's arrays test every index for being negative and its integers widen to 64 bits: either costs a
kernel half its speed. The caller has checked every bound before a kernel runs.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core.cgutils import raw_memcpy
from numba.extending import intrinsic

from atlas.kernels.layout import LINE

# Without the instruction, a fused multiplication and addition is a slow call.
HAS_FMA = bool(binding.get_host_cpu_features().get("fma")) or not binding.get_process_triple().startswith("x86_64")


def _caster(item: Any) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def pointer(typing: Any, address: Any) -> Any:
        """Return a memory address as a pointer that can be indexed."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.inttoptr(args[0], context.get_data_type(item).as_pointer())

        return types.CPointer(item)(types.int64), generate

    return pointer


u8, u16, u32, i64 = (_caster(item) for item in (types.uint8, types.uint16, types.uint32, types.int64))
i8, i16, i32, u64 = (_caster(item) for item in (types.int8, types.int16, types.int32, types.uint64))
f32, f64 = _caster(types.float32), _caster(types.float64)


def _operator(build: str) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def operate(typing: Any, first: Any, second: Any) -> Any:
        """Combine two integers of one type, wrapping around."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            other = context.cast(builder, args[1], signature.args[1], signature.args[0])
            return getattr(builder, build)(args[0], other)

        return first(first, second), generate

    return operate


# The second operand takes the type of the first. Shifts are logical; their count is below the width.
add, sub, mul, shl, shr = (_operator(build) for build in ("add", "sub", "mul", "shl", "lshr"))
both, either, differ = _operator("and_"), _operator("or_"), _operator("xor")


@intrinsic  # type: ignore[untyped-decorator]
def copy(typing: Any, target: Any, source: Any, length: Any) -> Any:
    """Copy `length` bytes between addresses."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        raw_memcpy(builder, builder.inttoptr(args[0], byte), builder.inttoptr(args[1], byte), args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


def _mover(size: int) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def move(typing: Any, target: Any, source: Any) -> Any:
        """Copy a fixed number of bytes between addresses, in one instruction or a few."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            place = ir.VectorType(ir.IntType(8), size).as_pointer()
            block = builder.load(builder.inttoptr(args[1], place), align=1)
            builder.store(block, builder.inttoptr(args[0], place), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return move


move4, move8, move16, move32 = (_mover(size) for size in (4, 8, 16, 32))


@intrinsic  # type: ignore[untyped-decorator]
def stream_line(typing: Any, target: Any, source: Any) -> Any:
    """Copy a cache line to an address where one begins, past the caches."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = ir.VectorType(ir.IntType(8), LINE).as_pointer()
        block = builder.load(builder.inttoptr(args[1], place), align=1)
        store = builder.store(block, builder.inttoptr(args[0], place), align=LINE)
        store.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def settle_streams(typing: Any) -> Any:
    """Wait until other threads see what was written past the caches."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic  # type: ignore[untyped-decorator]
def fma(typing: Any, first: Any, second: Any, third: Any) -> Any:
    """Return ``first * second + third`` of three floats of one type, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return first(first, first, first), generate


@intrinsic  # type: ignore[untyped-decorator]
def float_bits(typing: Any, value: Any) -> Any:
    """Return the bits of a float64 as int64."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(64))

    return types.int64(types.float64), generate
