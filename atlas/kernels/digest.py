"""The xxh3-64 of many payloads or names: one call for all, not one for every few bytes.

Sums and products wrap around, so they are `add` and `mul`: of Python's operators LLVM is told that they never do.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from atlas.kernels.compile import helper
from atlas.kernels.memory import add, differ, either, i64, mul, shl, shr, u8


def _signed(value: int) -> np.int64:
    return np.int64((value ^ 1 << 63) - (1 << 63))


_PRIME32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
_P1, _P2, _P3, _P4, _P5 = (
    _signed(prime)
    for prime in (
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )
)
_MIX1, _MIX2 = np.int64(0x165667919E3779F9), _signed(0x9FB21C651E98DF25)

# The algorithm's default secret.
_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)

_LANES = 8
_STRIPE = 8 * _LANES
_STRIPES = 16
_BLOCK = _STRIPE * _STRIPES


@intrinsic  # type: ignore[untyped-decorator]
def _secret(typing: Any) -> Any:
    """Return the address of the secret."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.ArrayType(ir.IntType(8), len(_SECRET))
        data = cgutils.global_constant(builder, "atlas_digest_secret", ir.Constant(kind, bytearray(_SECRET)))
        return builder.ptrtoint(data, ir.IntType(64))

    return types.int64(), generate


def _reader(bits: int) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def read(typing: Any, address: Any) -> Any:
        """Return the unsigned number at an address, aligned or not, as int64."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            number = builder.load(builder.inttoptr(args[0], ir.IntType(bits).as_pointer()), align=1)
            return builder.zext(number, ir.IntType(64)) if bits < 64 else number

        return types.int64(types.int64), generate

    return read


_half, _word = _reader(32), _reader(64)


@intrinsic  # type: ignore[untyped-decorator]
def _fold(typing: Any, first: Any, second: Any) -> Any:
    """Return both halves of a product of 128 bits, combined."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide, word = ir.IntType(128), ir.IntType(64)
        product = builder.mul(*(builder.zext(arg, wide) for arg in args))
        high = builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), word)
        return builder.xor(builder.trunc(product, word), high)

    return types.int64(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _reversed(typing: Any, value: Any) -> Any:
    """Return the bytes of a number in reverse order."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bswap(args[0])

    return types.int64(types.int64), generate


_lanes = ir.VectorType(ir.IntType(64), _LANES)


def _all_lanes(value: int) -> Any:
    return ir.Constant(_lanes, [value] * _LANES)


def _load(builder: Any, address: Any, offset: int = 0) -> Any:
    place = builder.add(address, ir.Constant(ir.IntType(64), offset))
    return builder.load(builder.inttoptr(place, _lanes.as_pointer()), align=1)


def _stripes(count: int, scrambled: bool) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]
    def accumulate(typing: Any, sums: Any, data: Any, secret: Any) -> Any:
        """Add a number of stripes to the sums, which stay in registers meanwhile."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            total, secret = _load(builder, args[0]), args[2]
            swap = ir.Constant(ir.VectorType(ir.IntType(32), _LANES), [lane ^ 1 for lane in range(_LANES)])
            for stripe in range(count):
                cells = _load(builder, args[1], _STRIPE * stripe)
                keyed = builder.xor(cells, _load(builder, secret, 8 * stripe))
                product = builder.mul(builder.and_(keyed, _all_lanes(0xFFFFFFFF)), builder.lshr(keyed, _all_lanes(32)))
                total = builder.add(total, builder.shuffle_vector(cells, ir.Constant(_lanes, ir.Undefined), swap))
                total = builder.add(total, product)
            if scrambled:
                total = builder.xor(total, builder.lshr(total, _all_lanes(47)))
                total = builder.xor(total, _load(builder, secret, len(_SECRET) - _STRIPE))
                total = builder.mul(total, _all_lanes(_PRIME32[0]))
            builder.store(total, builder.inttoptr(args[0], _lanes.as_pointer()), align=1)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, types.int64), generate

    return accumulate


_stripe, _block = _stripes(1, False), _stripes(_STRIPES, True)


@helper
def _avalanche(h: Any) -> Any:
    h = mul(differ(h, shr(h, 37)), _MIX1)
    return differ(h, shr(h, 32))


@helper
def _older_avalanche(h: Any) -> Any:
    h = mul(differ(h, shr(h, 33)), _P2)
    h = mul(differ(h, shr(h, 29)), _P3)
    return differ(h, shr(h, 32))


@helper
def _mix(data: Any, secret: Any) -> Any:
    first, second = differ(_word(data), _word(secret)), differ(_word(data + 8), _word(secret + 8))
    return _fold(first, second)


@helper
def _tiny(data: Any, length: Any, secret: Any) -> Any:
    """Hash up to 16 bytes."""
    keys = i64(secret)
    if length > 8:
        low = differ(_word(data), differ(keys[3], keys[4]))
        high = differ(_word(data + length - 8), differ(keys[5], keys[6]))
        return _avalanche(add(add(length, _reversed(low)), add(high, _fold(low, high))))
    if length >= 4:
        first, last = _half(data), _half(data + length - 4)
        h = differ(add(last, shl(first, 32)), differ(keys[1], keys[2]))
        h = mul(differ(h, differ(either(shl(h, 49), shr(h, 15)), either(shl(h, 24), shr(h, 40)))), _MIX2)
        h = mul(differ(h, add(shr(h, 35), length)), _MIX2)
        return differ(h, shr(h, 28))
    if length > 0:
        ends = (np.int64(u8(data)[0]) << 16) + np.int64(u8(data)[length - 1])
        joined = ends + (np.int64(u8(data)[length >> 1]) << 24) + (length << 8)
        return _older_avalanche(differ(joined, differ(_half(secret), _half(secret + 4))))
    return _older_avalanche(differ(keys[7], keys[8]))


@helper
def _short(data: Any, length: Any, secret: Any) -> Any:
    """Hash 17 to 240 bytes."""
    h = mul(length, _P1)
    if length <= 128:
        # From both ends to the middle.
        for i in range((length - 1) // 32, -1, -1):
            h = add(h, _mix(data + 16 * i, secret + 32 * i))
            h = add(h, _mix(data + length - 16 * (i + 1), secret + 32 * i + 16))
        return _avalanche(h)
    for i in range(8):
        h = add(h, _mix(data + 16 * i, secret + 16 * i))
    h = _avalanche(h)
    for i in range(8, length // 16):
        h = add(h, _mix(data + 16 * i, secret + 16 * (i - 8) + 3))
    return _avalanche(add(h, _mix(data + length - 16, secret + 136 - 17)))


@helper
def _long(data: Any, length: Any, secret: Any, sums: Any) -> Any:
    """Hash more than 240 bytes, with room for the sums at an address."""
    lanes = i64(sums)
    lanes[0], lanes[1], lanes[2], lanes[3] = _PRIME32[2], _P1, _P2, _P3
    lanes[4], lanes[5], lanes[6], lanes[7] = _P4, _PRIME32[1], _P5, _PRIME32[0]
    blocks = (length - 1) // _BLOCK
    for block in range(blocks):
        _block(sums, data + block * _BLOCK, secret)
    left = data + blocks * _BLOCK
    for stripe in range((length - 1 - blocks * _BLOCK) // _STRIPE):
        _stripe(sums, left + stripe * _STRIPE, secret + 8 * stripe)
    _stripe(sums, data + length - _STRIPE, secret + 121)
    h = mul(length, _P1)
    for i in range(4):
        h = add(h, _mix(sums + 16 * i, secret + 11 + 16 * i))
    return _avalanche(h)


@helper
def hash_of(data: Any, length: Any, room: Any) -> Any:
    """Return the hash of the bytes at an address; `room` takes `HASH_ROOM` bytes."""
    secret = _secret()
    if length <= 16:
        return _tiny(data, length, secret)
    if length <= 240:
        return _short(data, length, secret)
    return _long(data, length, secret, room)


def digest(src: Any, count: Any, offset: Any, length: Any, out: Any, room: Any) -> Any:
    """Write the hash of each of `count` stretches of `src` to `out`; all arguments are addresses or integers."""
    for i in range(count):
        i64(out)[i] = hash_of(src + i64(offset)[i], i64(length)[i], room)
    return 0
