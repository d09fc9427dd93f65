"""Chunks that were decompressed lately: fleets of a dozen datasets are read again and again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from atlas.codecs import LZ4, SHUFFLE_LZ4, SHUFFLE_ZSTD, ZSTD, among
from atlas.config import settings
from atlas.forks import free_in_children

_FRAMES, _BLOCKS = among(ZSTD, SHUFFLE_ZSTD), among(LZ4, SHUFFLE_LZ4)

# Smaller lz4 blocks are decompressed about as fast as they are found here.
_SMALLEST_BLOCK = 16 << 10


def worth_keeping(pipelines: Any, sizes: Any) -> Any:
    """Return which chunks, of so many bytes, or whether one, take longer to decompress than to look up."""
    return _FRAMES[pipelines] | (_BLOCKS[pipelines] & (sizes >= _SMALLEST_BLOCK))


class DecodedChunks:
    """Decompressed chunks of this process, least recently used out.

    Only what general codecs decompress is worth it: packed chunks are unpacked about as fast as a copy is made.
    """

    def __init__(self) -> None:
        self._chunks: OrderedDict[Hashable, Any] = OrderedDict()
        self._size = 0
        self._lock = free_in_children(threading.Lock())

    def get(self, key: Hashable) -> Any:
        """Return a chunk's bytes, ``None`` if they are not kept."""
        with self._lock:
            found = self._chunks.get(key)
            if found is not None:
                self._chunks.move_to_end(key)
            return found

    def put(self, key: Hashable, chunk: bytes) -> None:
        """Keep a chunk's bytes."""
        with self._lock:
            if key in self._chunks:
                return
            self._chunks[key] = chunk
            self._size += len(chunk)
            while self._size > settings().decoded_bytes:
                _, oldest = self._chunks.popitem(last=False)
                self._size -= len(oldest)


decoded_chunks = DecodedChunks()
