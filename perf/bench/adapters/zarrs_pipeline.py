"""Zarr 3 with the Rust codec pipeline of the `zarrs` package."""

from __future__ import annotations

import zarr
from adapters.zarr_alone import open_store, read, read_into, write

__all__ = ["open_store", "read", "read_into", "write"]

zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline", "codec_pipeline.strict": True})
