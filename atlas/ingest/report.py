"""What an ingest did: the report, and the log of it."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, TextIO


@dataclass
class IngestReport:
    """What an ingest did.

    Attributes
    ----------
    added : list of str
        Datasets, in order; those that replaced others are among them.
    skipped : dict of str to str
        Files that were left out, and why.
    remarks : dict of str to str
        Files of which something was left out: groups within them, variables of types that no reader knows.
    existing : list of str
        Datasets that were there already and stayed, with ``existing="skip"``.
    replaced : list of str
        Datasets that were there already and are new, with ``existing="replace"``.
    resumed : list of str
        Of those added, the ones whose files an earlier, interrupted run had read.
    seconds : float

    Examples
    --------
    >>> import atlas, xarray as xr
    >>> xr.Dataset({"t": ("x", [1.5, 2.5])}).to_netcdf("jan.nc")
    >>> report = atlas.create(["jan.nc"], "fleet")
    >>> report.added, report.skipped
    (['jan'], {})
    """

    added: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    existing: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Log(AbstractContextManager["Log"]):
    """A line for each file and each step, in a text file that is only ever added to.

    Parameters
    ----------
    path : path or None
        Nothing is written without one.
    """

    def __init__(self, path: Any) -> None:
        # Names of files need not be text.
        self._file: TextIO | None = (
            None if path is None else open(path, "a", encoding="utf-8", errors="backslashreplace")  # noqa: SIM115
        )

    def write(self, what: str, *details: object) -> None:
        """Write one line: the time, what happened, to what."""
        if self._file is not None:
            moment = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            print(moment, what, *(str(detail).replace("\n", " ") for detail in details), sep="\t", file=self._file)
            self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.write("failed", f"{kind.__name__}: {error}")
        if self._file is not None:
            self._file.close()
