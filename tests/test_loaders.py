"""Batches are the same whoever gathers them."""

import multiprocessing
import os
import time
from multiprocessing import active_children

import numpy as np
import pytest
import torch

from data.loaders import EvalLoader, TrainLoader, first_lost
from data.sampling import WindowOrder
from data.windows import WindowStore, index_windows
from tests.builders import SCHEMA, small_fleet
from tft.batch import WindowBatch


def loader(num_workers: int = 0, batch_size: int = 16) -> TrainLoader:
    fleet = small_fleet()
    index = index_windows(fleet, SCHEMA)
    order = WindowOrder(len(index), seed=3, windows_per_epoch=100)
    return TrainLoader(WindowStore(fleet, SCHEMA), index, order, batch_size, num_workers)


def same(one: WindowBatch, two: WindowBatch) -> bool:
    return all(
        torch.equal(a.nan_to_num(-1.0), b.nan_to_num(-1.0)) if a.is_floating_point()
        else torch.equal(a, b)
        for a, b in zip(one, two, strict=True)
    )  # fmt: skip


@pytest.mark.parametrize("num_workers", [1, 2])
def test_workers_give_the_same_batches(num_workers: int) -> None:
    here, there = loader(), loader(num_workers)
    for epoch in (0, 1, 5):
        ours, theirs = list(here.epoch(epoch)), list(there.epoch(epoch))
        assert len(ours) == len(theirs) == len(here) == 7
        assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))
        assert len(ours[-1].past) == 4  # the last batch is what is left


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_epoch_can_start_at_any_batch(num_workers: int) -> None:
    """Resuming in mid-epoch sees the rest of it, and nothing twice."""
    whole, rest = list(loader().epoch(2)), list(loader(num_workers).epoch(2, first_batch=4))
    assert len(rest) == 3
    assert all(same(a, b) for a, b in zip(whole[4:], rest, strict=True))


def test_epochs_differ() -> None:
    first, second = next(iter(loader().epoch(0))), next(iter(loader().epoch(1)))
    assert not same(first, second)


def test_evaluation_takes_the_windows_it_is_told_in_order() -> None:
    fleet = small_fleet()
    index = index_windows(fleet, SCHEMA)
    store = WindowStore(fleet, SCHEMA)
    windows = np.array([5, 3, 3, 90, 0])
    batches = list(EvalLoader(store, index, windows, batch_size=2))
    assert [len(batch.past) for batch in batches] == [2, 2, 1]
    assert same(batches[1], store.gather(*index.lookup(windows[2:4])))


def test_a_batch_moves_but_its_history_lengths_stay_on_the_cpu() -> None:
    moved = next(iter(loader().epoch(0))).to(torch.device("meta"))
    assert moved.past.is_meta and moved.known.is_meta and moved.future.is_meta
    assert moved.history_length.device.type == "cpu"


def test_workers_leave_the_process_group() -> None:
    """A signal to the whole group, as timeout(1) sends it, is for the process that trains."""
    others = set(active_children())
    batches = loader(num_workers=2).epoch(0)
    next(batches), next(batches)  # one of each worker, so that both have begun
    workers = set(active_children()) - others
    assert len(workers) == 2
    assert all(os.getpgid(worker.pid or 0) != os.getpgrp() for worker in workers)


def test_a_worker_killed_between_epochs_is_named() -> None:
    """In mid-epoch, too: see tests/faults/test_workers.py."""
    others = set(active_children())
    there = loader(num_workers=2)
    list(there.epoch(0))
    killed = (set(active_children()) - others).pop()
    killed.kill()
    expected = rf"worker {killed.pid} was lost \(SIGKILL\).* lower num_workers \(2\).* --resume"
    with pytest.raises(ChildProcessError, match=expected):
        list(there.epoch(1))


def test_what_goes_wrong_in_a_living_worker_is_said_as_it_is() -> None:
    there = loader(num_workers=1)
    there.store.values = there.store.values.flatten()
    with pytest.raises(RuntimeError, match="in DataLoader worker process 0"):
        list(there.epoch(0))


def _close_files_long_before_the_end() -> None:
    os.closerange(3, 256)
    time.sleep(0.3)
    os._exit(7)


def test_a_dying_worker_is_waited_for() -> None:
    """A killed process closes its pipes, which breaks whoever reads them, before it has ended."""
    fork = multiprocessing.get_context("fork")
    living, dying = fork.Process(target=time.sleep, args=(60,)), None
    living.start()
    try:
        assert first_lost([living], 0.01) is None
        dying = fork.Process(target=_close_files_long_before_the_end)
        dying.start()
        assert first_lost([living, dying], 10) is dying
        assert dying.exitcode == 7
    finally:
        living.kill()
        living.join()
