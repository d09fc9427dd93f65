"""A directory of real, unequal profiles: the Argo files, where they are present."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

ARGO = "argo"
ARRAY = "TEMP"


class ArgoFiles:
    """NetCDF files to ingest, and one variable of them to read back whole, as a list."""

    key = ARGO

    def __init__(self, folder: Path, work: Path) -> None:
        self.files = sorted(str(path) for path in folder.rglob("*.nc"))
        self.bytes = sum(Path(file).stat().st_size for file in self.files)
        self.work = work

    def make(self) -> None:
        """Nothing: the files are as they are."""

    def write_request(self, place: Path, codec: str, joined: bool) -> dict[str, Any]:
        return {"do": "ingest", "place": str(place), "files": self.files, "codec": codec}

    def read_request(self, fraction: float) -> dict[str, Any]:
        return {"do": "read_each", "arrays": [ARRAY]}

    def into_request(self) -> dict[str, Any]:
        """Nothing: datasets of unequal shapes are no array."""
        raise NotImplementedError

    def truth(self, fraction: float) -> dict[str, str]:
        """What xarray reads from the files themselves."""
        import xarray

        from perf.bench.worker import digest

        place = hashlib.sha256("\n".join(self.files).encode()).hexdigest()[:16]
        known = self.work / "data" / f"argo-{place}.json"
        if not known.exists():
            parts = []
            for file in self.files:
                with xarray.open_dataset(file) as ds:
                    parts.append(ds[ARRAY].values)
            known.parent.mkdir(parents=True, exist_ok=True)
            known.write_text(json.dumps({ARRAY: digest(parts)}))
        found: dict[str, str] = json.loads(known.read_text())
        return found
