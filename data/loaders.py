"""Batches of windows, gathered on the device or by worker processes: the same either way."""

import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Collection, Iterator
from multiprocessing import active_children
from multiprocessing.process import BaseProcess

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
        self._workers = _Workers(store, index, num_workers, pin_memory) if num_workers else None

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


class _Workers:
    """Processes that gather; they start with the first epoch and outlive it."""

    def __init__(
        self, store: WindowStore, index: WindowIndex, num_workers: int, pin_memory: bool
    ) -> None:
        if store.device.type != "cpu":
            raise ValueError(f"workers gather on the CPU, the store is on {store.device}")
        self.announced = _Announced()
        self.processes: set[BaseProcess] = set()
        self.loader = DataLoader(
            _WindowDataset(store, index),
            batch_size=None,  # a sample of the dataset is a batch already
            sampler=self.announced,
            num_workers=num_workers,
            persistent_workers=True,
            pin_memory=pin_memory,
            worker_init_fn=_leave_process_group,
            generator=torch.Generator().manual_seed(0),  # workers' seeds; gathering draws nothing
        )

    def gather(self, chosen: Iterator[IntArray]) -> Iterator[WindowBatch]:
        """Yield a batch for each of the window numbers in `chosen`.

        Raises:
            ChildProcessError: a worker died.
        """
        self.announced.batches = chosen
        try:
            yield from self._start()
        except (RuntimeError, OSError, EOFError) as error:
            process = first_lost(self.processes)  # whatever broke first, that is the cause
            if process is None:
                raise
            raise ChildProcessError(
                f"data loading worker {process.pid} was lost ({_ending(process)}), as happens "
                f"when memory runs out; lower num_workers ({self.loader.num_workers}) or free "
                "memory, and go on with --resume"
            ) from error

    def _start(self) -> Iterator[WindowBatch]:
        """Start an epoch, and the processes with the first one."""
        handler, others = signal.getsignal(signal.SIGCHLD), set(active_children())
        batches = iter(self.loader)
        self.processes |= set(active_children()) - others
        if threading.current_thread() is threading.main_thread():
            # PyTorch's handler would raise anywhere, in the middle of a save too. Without it a lost
            # worker is found where its batch is waited for.
            signal.signal(signal.SIGCHLD, handler)
        return batches


def first_lost(processes: Collection[BaseProcess], seconds: float = 1.0) -> BaseProcess | None:
    """Return a process that has ended, or is about to within so many seconds; None if none is."""
    closed = multiprocessing.connection.wait([p.sentinel for p in processes], seconds)
    for process in processes:
        if process.sentinel in closed:
            process.join()  # a dying process closes its files a moment before it can be waited for
            return process
    return None


def _leave_process_group(_: int) -> None:
    """Leave a signal to the whole group, as a terminal's Ctrl-C is, to the process that trains."""
    os.setsid()


def _ending(process: BaseProcess) -> str:
    code = process.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _batches(
    store: WindowStore, index: WindowIndex, chosen: Iterator[IntArray], workers: _Workers | None
) -> Iterator[WindowBatch]:
    if workers is None:
        return (store.gather(*index.lookup(windows)) for windows in chosen)
    return workers.gather(chosen)
