"""Batches for training from a store of thousands of fields, made by worker processes.

    python examples/loading_batches.py STORE [--fields N] [--workers N] [--start fork|spawn]

STORE is made, of random fields with their mean as the attribute ``target``; a linear model learns that from shuffled
batches. They come from PyTorch's ``DataLoader`` where it is installed, and from a pool of processes where it is not.
"""

from __future__ import annotations

import argparse
import importlib.util
import multiprocessing
from collections.abc import Iterator, Sequence

import numpy as np

import atlas

SHAPE = (16, 24)
BATCH = 64

Sample = tuple[np.ndarray, np.float32]


class Fields:
    """One array of many datasets with an attribute of each, as a map-style dataset of PyTorch's.

    To worker processes, forked or spawned, it travels as the store's place and version: all of them read the state that
    it was made of, whatever is written meanwhile, each with one thread.
    """

    def __init__(self, place: str, array: str, target: str) -> None:
        self.store, self.array = atlas.Atlas.open(place, mode="r"), array
        table = self.store.table([], [target]).dropna()
        # Not a list: counting references to its items would have every forked worker copy their memory.
        self.names = table["dataset"].to_numpy(str)
        self.targets = table[target].to_numpy("float32")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Return the samples of a batch: one stacked read, where it would be one for each of them."""
        batch = np.asarray(indices)
        cells = self.store.read_array_across_stacked(self.array, self.names[batch].tolist())
        return list(zip(cells, self.targets[batch], strict=True))


def batches_of_pytorch(fields: Fields, workers: int, start: str) -> Iterator[Sample]:
    """Yield shuffled batches as NumPy arrays."""
    from torch.utils.data import DataLoader

    loader = DataLoader(fields, BATCH, shuffle=True, num_workers=workers, multiprocessing_context=start)
    for cells, targets in loader:
        yield cells.numpy(), targets.numpy()


def batches_of_a_pool(fields: Fields, workers: int, start: str) -> Iterator[Sample]:
    """Yield the same without PyTorch."""
    order = np.random.default_rng().permutation(len(fields))
    shares = [order[first : first + BATCH] for first in range(0, len(order), BATCH)]
    with multiprocessing.get_context(start).Pool(workers) as pool:
        for samples in pool.imap(fields.__getitems__, shares):
            cells, targets = zip(*samples, strict=True)
            yield np.stack(cells), np.stack(targets)


def fill(place: str, count: int) -> None:
    """Make a store of random fields."""
    noise = np.random.default_rng(1)
    cells = (noise.normal(size=(count, 1, 1)) + 0.3 * noise.normal(size=(count, *SHAPE))).astype("float32")
    with atlas.Atlas.create(place) as store:
        store.create_datasets(
            [f"field_{number:06d}" for number in range(count)],
            {"cells": {"dims": ["y", "x"], "data": cells}},
            {"target": cells.mean(axis=(1, 2), dtype="float64")},
        )


def main() -> None:
    """Fill the store and learn."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("store")
    options.add_argument("--fields", type=int, default=10_000)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--start", choices=multiprocessing.get_all_start_methods(), default="spawn")
    given = options.parse_args()
    fill(given.store, given.fields)
    fields = Fields(given.store, "cells", "target")
    has_pytorch = importlib.util.find_spec("torch") is not None
    batches = batches_of_pytorch if has_pytorch else batches_of_a_pool
    weights = np.zeros(SHAPE, "float32")
    for epoch in range(3):
        losses = []
        for cells, targets in batches(fields, given.workers, given.start):
            wrong = np.tensordot(cells, weights, 2) - targets
            weights -= np.tensordot(wrong, cells, 1) / (len(cells) * weights.size)
            losses.append(float(np.square(wrong).mean()))
        print(f"epoch {epoch}: {len(losses)} batches of {batches.__name__}, loss {np.mean(losses):.6f}")


if __name__ == "__main__":
    main()
