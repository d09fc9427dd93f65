"""The project's targets, and how far a run reached them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from perf.bench.argo import ARGO
from perf.bench.figures import Record, ours, ratio, select, shown

# Peers by what their codecs can do.
CLOSE = ("tensorstore", "zarrs", "blosc2")
ZSTD_CLASS = [(system, codec) for system in CLOSE for codec in ("pcodec", "zstd", "shuffle-zstd")]


@dataclass(frozen=True)
class Target:
    """At least so many times faster than each of these peers.

    Parameters
    ----------
    work : str
    workload, operation, what : str
        Of the records; `what` is ``"warm"``, ``"first"`` or ``"write"``.
    peers : tuple of (str, str or None)
        System and codec; ``None`` for any codec; no peers at all for everybody.
    reach : float
    codec : str
        Ours.
    no_larger : bool
        Whether only peers count whose store is not smaller than ours.
    """

    work: str
    workload: str
    operation: str
    what: str
    peers: tuple[tuple[str, str | None], ...]
    reach: float
    codec: str = "zstd"
    no_larger: bool = False


def _pair(
    workload: str, what: str, peers: Sequence[tuple[str, str | None]], reach: tuple[float, float], **more: object
) -> list[Target]:
    label = {"warm": "warm", "first": "first call"}[what]
    return [
        Target(f"{workload}, {operation}, {label}", workload, operation, what, tuple(peers), value, **more)  # type: ignore[arg-type]
        for operation, value in zip(("slice", "full"), reach, strict=True)
    ]


SMOOTH, RANDOM, PROFILE = "gridded-smooth", "gridded-random", "profile-smooth"
OLDER: list[tuple[str, str | None]] = [("atlas-0.14", None)]
TUNED: list[tuple[str, str | None]] = [("zarr+dask", None)]
PLAIN: list[tuple[str, str | None]] = [("zarr+dask-plain", None)]

TARGETS = [
    *_pair(SMOOTH, "warm", OLDER, (100, 20)),
    *_pair(SMOOTH, "warm", PLAIN, (80, 50)),
    *_pair(SMOOTH, "warm", TUNED, (80, 50)),
    *_pair(SMOOTH, "warm", ZSTD_CLASS, (8, 6), no_larger=True),
    *_pair(SMOOTH, "warm", (), (1.5, 2)),
    *_pair(SMOOTH, "warm", [(s, "lz4") for s in CLOSE], (1, 1.5), codec="lz4"),
    *_pair(
        SMOOTH,
        "warm",
        [(s, "none") for s in CLOSE],
        (1, 1.5),
        codec="none",
    ),
    *_pair(SMOOTH, "first", (), (1 / 1.5, 1)),
    *_pair(RANDOM, "warm", [("tensorstore", None), ("zarrs", None)], (1.5, 1.5)),
    *_pair(PROFILE, "warm", OLDER, (10, 10)),
    *_pair(PROFILE, "warm", PLAIN, (200, 200)),
    *_pair(PROFILE, "warm", TUNED, (200, 200)),
    Target("argo, TEMP of all profiles, warm", ARGO, "full", "warm", (("atlas-0.14", None),), 3),
    Target("argo, TEMP of all profiles, warm", ARGO, "full", "warm", (("netcdf", None),), 500),
    Target("gridded-smooth, write", SMOOTH, "write", "write", (("atlas-0.14", None),), 8),
    Target("gridded-smooth, write", SMOOTH, "write", "write", (("zarr", None),), 5),
    Target("argo, ingest", ARGO, "write", "write", (("atlas-0.14", None),), 4),
]

# Of a stacked read, over the size of the result.
MEMORY_FACTOR, MEMORY_BYTES = 1.15, 450e6


def target_rows(records: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Return the targets that were measured: against whom, wanted, reached."""
    rows = [row for target in TARGETS if (row := _row(target, records))]
    rows += _memory_rows(records)
    return ["work", "against", "target", "reached", ""], rows


def _row(target: Target, records: Sequence[Record]) -> list[str] | None:
    same = select(records, workload=target.workload, operation=target.operation, sweep=None)
    mine = ours(same, target.codec)
    rivals = [peer for peer in same if _counts(target, peer, mine, records)]
    found = [(factor, peer) for peer in rivals if (factor := ratio(peer, mine, target.what)) is not None]
    if not found:
        return _failed(target, rivals)
    factor, nearest = min(found, key=lambda item: item[0])
    against = f"{nearest['system']} {nearest['codec']}" + (", the fastest of all" if not target.peers else "")
    work = f"{target.work}, {target.codec}" if target.codec != "zstd" else target.work
    if "datasets" in nearest:
        work = work.replace(target.workload, f"{target.workload} ×{nearest['datasets']:,}")
    verdict = "yes" if factor >= target.reach else "**no**"
    return [
        work,
        against,
        f"≥ {target.reach:.2g}×" if target.reach < 10 else f"≥ {target.reach:g}×",
        f"{shown(factor)}×",
        verdict,
    ]


def _failed(target: Target, rivals: Sequence[Record]) -> list[str] | None:
    """Return the row of a target whose rivals could not be timed."""
    if not rivals:
        return None
    against = ", ".join(f"{peer['system']} {peer['codec']}" for peer in rivals)
    return [target.work, against, f"≥ {target.reach:g}×", rivals[0].get("error", "not timed"), "–"]


def _counts(target: Target, peer: Record, mine: Record | None, records: Sequence[Record]) -> bool:
    who = (peer["system"], peer["codec"])
    if peer["system"] == "atlas" or mine is None:
        return False
    named = not target.peers or who in target.peers or (who[0], None) in target.peers
    return named and not (target.no_larger and _size(records, peer) < _size(records, mine))


def _size(records: Sequence[Record], record: Record) -> float:
    same = select(
        records,
        workload=record["workload"],
        datasets=record.get("datasets"),
        sweep=None,
        system=record["system"],
        codec=record["codec"],
    )
    return next((float(r["size"]) for r in same if "size" in r), float("inf"))


def _memory_rows(records: Sequence[Record]) -> list[list[str]]:
    rows = []
    for record in select(records, system="atlas", codec="zstd", operation="full", sweep=None):
        if "peak" in record and "bytes" in record:
            allowed, peak = MEMORY_FACTOR * record["bytes"] + MEMORY_BYTES, record["peak with files"]
            verdict = "yes" if peak <= allowed else "**no**"
            rows.append(
                [
                    f"{record['workload']} ×{record['datasets']:,}, full, peak memory, mapped files included",
                    "size of the result",
                    f"≤ {allowed / 1e6:.0f} MB",
                    f"{peak / 1e6:.0f} MB",
                    verdict,
                ]
            )
    return rows
