"""Conditions as text, for the command line: ``max(temperature) > 25 and attr(platform) == "buoy"``."""

from __future__ import annotations

import ast
from typing import Any

from atlas.conditions import Compared, Condition, SomeCell, all_of
from atlas.errors import InvalidArgument
from atlas.query import Attribute, Cells, Statistic, Value

_STATISTICS = {"min": "min", "max": "max", "rows": "row_count", "nulls": "null_count"}
_COMPARISONS = {ast.Gt: ">", ast.GtE: ">=", ast.Lt: "<", ast.LtE: "<=", ast.Eq: "==", ast.NotEq: "!="}
_MIRRORED = {">": "<", ">=": "<=", "<": ">", "<=": ">=", "==": "==", "!=": "!="}


def parse_condition(text: str) -> Condition:
    """Return the condition that a text describes; nothing in it is run.

    Parameters
    ----------
    text : str
        Comparisons joined by ``and``, ``or``, ``not``. A bare name, or ``cells("sea water")``, stands for the
        cells of an array; ``min()``, ``max()``, ``rows()`` and ``nulls()`` for its statistics;
        ``attr(key)`` for an attribute, ``attr(array, key)`` for one of an array; ``exists()`` of any of these
        is a condition; ``in [..]`` asks for one of several values.

    Raises
    ------
    InvalidArgument
        If it says anything else.

    Examples
    --------
    >>> condition = parse_condition('40 <= lat <= 50 and attr(platform) in ["buoy", "float"]')
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidArgument(f"condition {text!r} cannot be understood: {getattr(error, 'msg', error)}") from None
    return _condition(tree.body, text)


def _refuse(node: ast.AST, text: str) -> InvalidArgument:
    part = ast.get_source_segment(text.strip(), node) if isinstance(node, ast.expr) else text
    return InvalidArgument(f"condition {text!r} cannot be understood: {part!r} is neither a comparison nor a value")


def _condition(node: ast.expr, text: str) -> Condition:
    if isinstance(node, ast.BoolOp):
        parts = [_condition(value, text) for value in node.values]
        return all_of(parts) if isinstance(node.op, ast.And) else ~all_of([~part for part in parts])
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_condition(node.operand, text)
    if isinstance(node, ast.Call) and _called(node) == "exists" and len(node.args) == 1:
        return _subject(node.args[0], text).exists()
    if isinstance(node, ast.Compare):
        return _comparison(node, text)
    raise _refuse(node, text)


def _comparison(node: ast.Compare, text: str) -> Condition:
    terms = [_term(term, text) for term in (node.left, *node.comparators)]
    ops = [_COMPARISONS.get(type(op), "") for op in node.ops]
    if len(ops) == 2 and all(ops) and not isinstance(terms[0], _SUBJECTS) and not isinstance(terms[2], _SUBJECTS):
        found = _within(terms, *ops)
        if found is not None:
            return found
    parts = []
    for first, op, second in zip(terms, node.ops, terms[1:], strict=False):
        if isinstance(op, (ast.In, ast.NotIn)) and isinstance(first, (Cells, Value)) and isinstance(second, list):
            inside = first.isin(second)
            parts.append(inside if isinstance(op, ast.In) else ~inside)
        elif type(op) in _COMPARISONS:
            parts.append(_compared(first, _COMPARISONS[type(op)], second, node, text))
        else:
            raise _refuse(node, text)
    return all_of(parts)


_SUBJECTS = (Cells, Value, list)


def _within(terms: list[Any], first: str, second: str) -> Condition | None:
    """Return a range as one condition: one cell, or item, has to lie in it, not one above and another below."""
    subject = terms[1]
    if isinstance(subject, Value):
        return Compared(subject, ((_MIRRORED[first], terms[0]), (second, terms[2])))
    if isinstance(subject, Cells) and first[0] == second[0] in ("<", ">"):
        (low, above), (high, below) = (terms[0], first), (terms[2], second)
        if first[0] == ">":
            (low, above), (high, below) = (high, below), (low, above)
        return SomeCell(subject, low, high, above=len(above) == 1, below=len(below) == 1)
    return None


def _compared(first: Any, op: str, second: Any, node: ast.expr, text: str) -> Condition:
    if not isinstance(first, (Cells, Value)):
        first, op, second = second, _MIRRORED[op], first
    if not isinstance(first, (Cells, Value)) or isinstance(second, (Cells, list)):
        raise _refuse(node, text)
    compare = {">": "__gt__", ">=": "__ge__", "<": "__lt__", "<=": "__le__", "==": "__eq__", "!=": "__ne__"}[op]
    result: Condition = getattr(first, compare)(second)
    return result


def _term(node: ast.expr, text: str) -> Any:
    if isinstance(node, (ast.Name, ast.Call)):
        return _subject(node, text)
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, RecursionError):
        raise _refuse(node, text) from None
    return list(value) if isinstance(value, (list, tuple, set)) else value


def _subject(node: ast.expr, text: str) -> Cells | Value:
    if isinstance(node, ast.Name):
        return Cells(node.id)
    if not isinstance(node, ast.Call) or node.keywords:
        raise _refuse(node, text)
    names = [_name(argument, text) for argument in node.args]
    function = _called(node)
    if function in _STATISTICS and len(names) == 1:
        return Statistic(names[0], _STATISTICS[function])
    if function == "cells" and len(names) == 1:
        return Cells(names[0])
    if function == "attr" and len(names) in (1, 2):
        return Attribute(names[0] if len(names) == 2 else None, names[-1])
    raise _refuse(node, text)


def _called(node: ast.Call) -> str:
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _name(node: ast.expr, text: str) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise _refuse(node, text)
