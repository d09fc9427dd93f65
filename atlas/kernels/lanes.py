"""Rows of 32 numbers in vector instructions, spelled out.

Left to itself the compiler unrolls loops of a constant 32 into scalar code, at a fifth of the speed.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core.cgutils import alloca_once_value, for_range
from numba.extending import intrinsic

LANES = 32

# As many as a sum of rows takes at once: rows are often short.
FEW = 8

_WORDS = ir.VectorType(ir.IntType(32), LANES)


def _splat(builder: Any, value: Any) -> Any:
    vector = ir.VectorType(value.type, LANES)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(
        one, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    )


def _load(builder: Any, address: Any, item: Any) -> Any:
    return builder.load(builder.inttoptr(address, ir.VectorType(item, LANES).as_pointer()), align=4)


def _store(builder: Any, address: Any, row: Any) -> None:
    builder.store(row, builder.inttoptr(address, row.type.as_pointer()), align=4)


@intrinsic  # type: ignore[untyped-decorator]
def unpack_row(typing: Any, low: Any, shift: Any, mask: Any, base: Any, out: Any) -> Any:
    """Write ``base + (words >> shift & mask)`` at `out`, for the 32 words at `low`; `base` has the type of `out`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _finish(builder, _row(builder, *args[:3]), *args[3:])
        return context.get_dummy_value()

    return types.void(types.int64, types.uint32, types.uint32, base, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def unpack_split_row(typing: Any, low: Any, shift: Any, mask: Any, base: Any, out: Any) -> Any:
    """Like :func:`unpack_row` for numbers whose upper bits are in the next 32 words; `shift` is not 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _finish(builder, _split_row(builder, *args[:3]), *args[3:])
        return context.get_dummy_value()

    return types.void(types.int64, types.uint32, types.uint32, base, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def unpack_wide_row(typing: Any, low: Any, high: Any, shift: Any, mask: Any, base: Any, out: Any) -> Any:
    """Like :func:`unpack_row` for numbers of 64 bits: at `low` are their low halves, at `high` the rest."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _finish(builder, _joined(builder, args[0], _row(builder, *args[1:4])), *args[4:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.uint32, types.uint32, types.uint64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def unpack_wide_split_row(typing: Any, low: Any, high: Any, shift: Any, mask: Any, base: Any, out: Any) -> Any:
    """Like :func:`unpack_wide_row` where the uppermost bits are in the next 32 words; `shift` is not 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _finish(builder, _joined(builder, args[0], _split_row(builder, *args[1:4])), *args[4:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.uint32, types.uint32, types.uint64, types.int64), generate


def _row(builder: Any, low: Any, shift: Any, mask: Any) -> Any:
    words = builder.lshr(_load(builder, low, ir.IntType(32)), _splat(builder, shift))
    return builder.and_(words, _splat(builder, mask))


def _split_row(builder: Any, low: Any, shift: Any, mask: Any) -> Any:
    lower = builder.lshr(_load(builder, low, ir.IntType(32)), _splat(builder, shift))
    behind = builder.add(low, ir.Constant(ir.IntType(64), 4 * LANES))
    up = builder.sub(ir.Constant(ir.IntType(32), 32), shift)
    upper = builder.shl(_load(builder, behind, ir.IntType(32)), _splat(builder, up))
    return builder.and_(builder.or_(lower, upper), _splat(builder, mask))


def _joined(builder: Any, low: Any, high: Any) -> Any:
    """Return 32 numbers of 64 bits: the words at `low`, and the numbers `high` above them."""
    wide = ir.VectorType(ir.IntType(64), LANES)
    above = builder.shl(builder.zext(high, wide), ir.Constant(wide, [32] * LANES))
    return builder.or_(above, builder.zext(_load(builder, low, ir.IntType(32)), wide))


def _finish(builder: Any, numbers: Any, base: Any, out: Any) -> None:
    wide = ir.VectorType(base.type, LANES)
    if numbers.type.element.width < base.type.width:
        numbers = builder.zext(numbers, wide)
    _store(builder, out, builder.add(numbers, _splat(builder, base)))


@intrinsic  # type: ignore[untyped-decorator]
def pack_row(typing: Any, values: Any, base: Any, down: Any, mask: Any, shift: Any, low: Any) -> Any:
    """Or ``(values - base >> down & mask) << shift`` into the 32 words at `low`; `base` has the type of the values."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        numbers = _numbers(builder, *args[:4])
        words = builder.or_(_load(builder, args[5], ir.IntType(32)), builder.shl(numbers, _splat(builder, args[4])))
        _store(builder, args[5], words)
        return context.get_dummy_value()

    return types.void(types.int64, base, base, types.uint32, types.uint32, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def pack_spilled_row(typing: Any, values: Any, base: Any, down: Any, mask: Any, shift: Any, low: Any) -> Any:
    """Write the bits that :func:`pack_row` shifts out to the 32 words behind `low`; `shift` is not 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        numbers = _numbers(builder, *args[:4])
        up = builder.sub(ir.Constant(ir.IntType(32), 32), args[4])
        behind = builder.add(args[5], ir.Constant(ir.IntType(64), 4 * LANES))
        _store(builder, behind, builder.lshr(numbers, _splat(builder, up)))
        return context.get_dummy_value()

    return types.void(types.int64, base, base, types.uint32, types.uint32, types.int64), generate


def _numbers(builder: Any, values: Any, base: Any, down: Any, mask: Any) -> Any:
    row = builder.sub(_load(builder, values, base.type), _splat(builder, base))
    if base.type.width == 64:
        row = builder.trunc(builder.lshr(row, _splat(builder, down)), _WORDS)
    return builder.and_(row, _splat(builder, mask))


@intrinsic  # type: ignore[untyped-decorator]
def add_few(typing: Any, like: Any, out: Any, source: Any, before: Any) -> Any:
    """Write the sums of the :data:`FEW` integers at `source` and at `before` at `out`, of the type of `like`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row = ir.VectorType(args[0].type, FEW)
        first, second = (
            builder.load(builder.inttoptr(address, row.as_pointer()), align=4) for address in (args[2], args[3])
        )
        _store(builder, args[1], builder.add(first, second))
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def sum_column(typing: Any, like: Any, out: Any, source: Any, step: Any, rows: Any) -> Any:
    """Write the sums of :data:`FEW` integers in each of some rows at `source`, `step` bytes apart, and all above them.

    They go to rows at `out`, above which stands what they begin with.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        row = ir.VectorType(args[0].type, FEW)

        def load(address: Any) -> Any:
            return builder.load(builder.inttoptr(address, row.as_pointer()), align=4)

        # It stays in a register, where a sum that is read back from memory would wait for it.
        total = alloca_once_value(builder, load(builder.sub(args[1], args[3])))
        with for_range(builder, args[4]) as loop:
            at = builder.mul(loop.index, args[3])
            numbers = builder.add(builder.load(total), load(builder.add(args[2], at)))
            builder.store(numbers, total)
            _store(builder, builder.add(args[1], at), numbers)
        return context.get_dummy_value()

    return types.void(like, types.int64, types.int64, types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def punch_row(typing: Any, hole: Any, bits: Any, out: Any) -> Any:
    """Write `hole` over those of 32 integers at `out` whose bit is set in the 32 bits at `bits`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        word = builder.load(builder.inttoptr(args[1], ir.IntType(32).as_pointer()), align=1)
        chosen = builder.bitcast(word, ir.VectorType(ir.IntType(1), LANES))
        numbers = _load(builder, args[2], args[0].type)
        _store(builder, args[2], builder.select(chosen, _splat(builder, args[0]), numbers))
        return context.get_dummy_value()

    return types.void(hole, types.int64, types.int64), generate
