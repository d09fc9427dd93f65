"""How a packed chunk begins (docs/format.md, pipeline 64), and what that says of its cells."""

from __future__ import annotations

from typing import Any

from atlas.kernels.compile import helper
from atlas.kernels.emit import DIVIDE, MULTIPLY, ORDER, SIGN
from atlas.kernels.layout import (
    BINARY,
    BITS,
    DIVIDED,
    FLOAT32,
    INTEGERS,
    MASKED,
    MAX_AXES,
    MAX_BINARY,
    MAX_DECIMAL,
    ORDERED,
    PATCHED,
    SIGN_LAST,
    WIDE,
)
from atlas.kernels.numbers import may_multiply, scale_of


@helper
def is_header(kind: Any, code: Any, mask: Any, flags: Any, element: Any, item: Any, axes: Any) -> Any:
    """Return whether a chunk of that type and so many axes may begin like this."""
    if kind > BITS or (kind != INTEGERS) != (element >= FLOAT32) or flags > MASKED | PATCHED | WIDE:
        return False
    if kind == BITS and (code > SIGN_LAST or (flags & WIDE != 0) != (item == 8)):
        return False
    if code > MAX_BINARY or MAX_DECIMAL < code < BINARY:
        return False
    return axes >= MAX_AXES or mask >> axes == 0


@helper
def rule_of(kind: Any, code: Any, element: Any, masked: Any, special: Any) -> Any:
    """Return how integers become cells, as :func:`atlas.kernels.emit.emit_box` takes it."""
    scale = scale_of(kind, code)
    divided = kind == DIVIDED
    how = DIVIDE if divided and not may_multiply(code, element) else MULTIPLY
    if kind == BITS:
        how = ORDER if code == ORDERED else SIGN
    inverse = 1.0 / scale if divided else scale
    correction = inverse if divided else 0.0
    return element, how, scale, inverse, correction, masked, special
