"""Batches of windows, gathered on the device or by worker processes: the same either way."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from data.fleet import IntArray
from data.sampling import WindowOrder
from data.windows import WindowIndex, WindowStore
from tft.batch import WindowBatch

DRAWN_BATCHES = 64  # shuffled at once: what numpy's calls cost is shared by so many


class TrainLoader:
    """Shuffled batches of an epoch; which windows, is the order's business alone."""

    def __init__(
        self,
        store: WindowStore,
        index: WindowIndex,
        order: WindowOrder,
        batch_size: int,
        num_workers: int = 0,
        pin_memory: bool = False,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """Bind windows to an order.

        Args:
            store: series; with workers it must lie on the CPU.
            index: windows that `order` numbers.
            order: which windows, epoch by epoch.
            batch_size: windows in a batch, of all ranks; an epoch's last batch may be smaller.
            num_workers: processes that gather; 0 gathers here, on the store's device.
            pin_memory: whether workers' batches come in memory a GPU copies from quickly.
            rank: number of this process among those that train together.
            ranks: how many they are; each yields its share of every batch.
        """
        self.store, self.index, self.order, self.batch_size = store, index, order, batch_size
        self.rank, self.ranks = rank, ranks
        self._workers = (
            _worker_loader(store, index, num_workers, pin_memory) if num_workers else None
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return -(-self.order.per_epoch // self.batch_size)

    @property
    def windows_per_epoch(self) -> int:
        """Windows in an epoch."""
        return self.order.per_epoch

    @property
    def sampled(self) -> bool:
        """Whether an epoch leaves windows out."""
        return self.order.per_epoch < self.order.total

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[WindowBatch]:
        """Yield the batches of an epoch, numbered from 0, from `first_batch` on.

        With workers one epoch lives at a time: starting another ends the one before.
        """
        numbers = range(first_batch, len(self))
        chosen = (self._share(windows) for windows in self._drawn(epoch, first_batch))
        batches = _batches(self.store, self.index, chosen, self._workers)
        for number, batch in zip(numbers, batches, strict=True):
            if self.rank >= self._size(number):
                batch = batch._replace(future=torch.full_like(batch.future, torch.nan))
            yield batch

    def names(self, epoch: int, batch: int) -> list[str]:
        """Name the windows of a batch, every rank's: server and first tick forecast."""
        start = batch * self.batch_size
        windows = self.order.windows(epoch, start, start + self.batch_size)
        server, origin = self.index.lookup(windows)
        step = self.store.schema.step_seconds
        moments = (origin * step).astype("datetime64[s]")
        return [
            f"{self.store.servers[who]} at {when}Z"
            for who, when in zip(server, moments, strict=True)
        ]

    def _drawn(self, epoch: int, first_batch: int) -> Iterator[IntArray]:
        """Yield the window numbers of batches, every rank's; shuffled many batches at a time."""
        for first in range(first_batch, len(self), DRAWN_BATCHES):
            start = first * self.batch_size
            drawn = self.order.windows(epoch, start, start + DRAWN_BATCHES * self.batch_size)
            yield from np.split(drawn, range(self.batch_size, len(drawn), self.batch_size))

    def _share(self, windows: IntArray) -> IntArray:
        """Return this rank's windows; one left without takes one that counts for nothing."""
        return windows[self.rank :: self.ranks] if self.rank < len(windows) else windows[:1]

    def _size(self, batch: int) -> int:
        return min(self.batch_size, self.order.per_epoch - batch * self.batch_size)


class EvalLoader:
    """Fixed windows in a fixed order."""

    def __init__(
        self, store: WindowStore, index: WindowIndex, windows: IntArray, batch_size: int
    ) -> None:
        """Take window numbers [n] of `index`, in order."""
        self.store, self.index, self.windows = store, index, windows
        self.batch_size = batch_size

    def __len__(self) -> int:
        """Batches."""
        return -(-len(self.windows) // self.batch_size)

    def __iter__(self) -> Iterator[WindowBatch]:
        """Yield the batches."""
        starts = range(0, len(self.windows), self.batch_size)
        chosen = (self.windows[s : s + self.batch_size] for s in starts)
        return _batches(self.store, self.index, chosen, None)


class _WindowDataset(Dataset[WindowBatch]):
    """Indexed by a whole batch of window numbers: gathering is vectorised, not per sample."""

    def __init__(self, store: WindowStore, index: WindowIndex) -> None:
        self.store, self.index = store, index

    def __getitem__(self, windows: IntArray) -> WindowBatch:
        return self.store.gather(*self.index.lookup(windows))


class _Announced(Sampler[IntArray]):
    """Hands the batches of the epoch at hand to workers that outlive it."""

    def __init__(self) -> None:
        self.batches: Iterator[IntArray] = iter(())

    def __iter__(self) -> Iterator[IntArray]:
        return self.batches


def _worker_loader(
    store: WindowStore, index: WindowIndex, num_workers: int, pin_memory: bool
) -> DataLoader[WindowBatch]:
    if store.device.type != "cpu":
        raise ValueError(f"workers gather on the CPU, the store is on {store.device}")
    return DataLoader(
        _WindowDataset(store, index),
        batch_size=None,  # a sample of the dataset is a batch already
        sampler=_Announced(),
        num_workers=num_workers,
        persistent_workers=True,
        pin_memory=pin_memory,
        generator=torch.Generator().manual_seed(0),  # workers' seeds; gathering draws nothing
    )


def _batches(
    store: WindowStore,
    index: WindowIndex,
    chosen: Iterator[IntArray],
    workers: DataLoader[WindowBatch] | None,
) -> Iterator[WindowBatch]:
    if workers is None:
        return (store.gather(*index.lookup(windows)) for windows in chosen)
    assert isinstance(workers.sampler, _Announced)
    workers.sampler.batches = chosen
    return iter(workers)
