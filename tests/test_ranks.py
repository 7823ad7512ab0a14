"""Ranks train as one process would: the same windows, the same gradients, one file written."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.parallel import DistributedDataParallel

from data.loaders import TrainLoader
from data.sampling import WindowOrder
from data.windows import WindowStore, index_windows
from tests.builders import SCHEMA, random_batch, small_fleet, tiny_forecaster
from tft.batch import WindowBatch
from train.config import TrainConfig
from train.device import grad_scaler
from train.ranks import ALONE, joined
from train.step import make_optimizer, train_step

CPU = torch.device("cpu")
CONFIG = TrainConfig(learning_rate=0.01, weight_decay=0.1)


def in_double(batch: WindowBatch) -> WindowBatch:
    return WindowBatch(*(t.double() if t.is_floating_point() else t for t in batch))


def group() -> list[WindowBatch]:
    """Three batches to accumulate, of different size and with different shares missing."""
    batches = []
    for seed, (size, missing) in enumerate(((6, 0.0), (5, 0.9), (1, 0.5))):
        batch = random_batch(B=size, seed=seed)
        hidden = torch.rand(batch.future.shape, generator=torch.Generator().manual_seed(seed))
        future = batch.future.masked_fill(hidden < missing, torch.nan)
        batches.append(in_double(batch._replace(future=future)))
    return batches


def share(batch: WindowBatch, rank: int, ranks: int) -> WindowBatch:
    """Return a rank's windows; one left without takes the first, which counts for nothing."""
    mine = WindowBatch(*(t[rank::ranks] for t in batch))
    if len(mine.past):
        return mine
    first = WindowBatch(*(t[:1] for t in batch))
    return first._replace(future=torch.full_like(first.future, torch.nan))


def step_as_rank(rank: int, folder: Path) -> None:
    """Take a step as one of two, and keep the weights and the number of all-reduces."""
    torch.set_num_threads(1)
    os.environ |= {
        "WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": (folder / "port").read_text(),
    }  # fmt: skip
    with joined(CPU) as ranks:
        forecaster = tiny_forecaster().double()
        model = ranks.wrap(forecaster)
        assert isinstance(model, DistributedDataParallel)
        optimizer, scaler = make_optimizer(forecaster, CONFIG), grad_scaler("fp32", CPU)
        mine = [share(batch, rank, ranks.size) for batch in group()]
        calls = []

        def averaged(_: None, bucket: torch.distributed.GradBucket):
            calls.append(bucket.is_last())
            work = torch.distributed.all_reduce(bucket.buffer(), async_op=True)
            return work.get_future().then(lambda f: f.value()[0] / 2)

        model.register_comm_hook(None, averaged)
        result = train_step(model, mine, optimizer, scaler, CONFIG, ranks)
        torch.save(
            {
                "weights": forecaster.state_dict(),
                "all_reduces": calls.count(True),
                "loss": result.loss,
                "observed": int(result.observed),
                "agreed": ranks.most(rank, 5 - rank),
                "shared": ranks.share(f"of rank {rank}"),
                "gathered": ranks.gather(rank),
            },
            folder / f"rank{rank}.pt",
        )


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    import socket

    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        (folder / "port").write_text(str(probe.getsockname()[1]))
    mp.spawn(step_as_rank, args=(folder,), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_two_ranks_step_as_one_process(two_ranks: list[dict]) -> None:
    """In float64, with accumulation, ragged batches, masks, and a rank left without a window."""
    forecaster = tiny_forecaster().double()
    optimizer, scaler = make_optimizer(forecaster, CONFIG), grad_scaler("fp32", CPU)
    alone = train_step(forecaster, group(), optimizer, scaler, CONFIG, ALONE)
    for rank in two_ranks:
        assert rank["observed"] == int(alone.observed)
        assert rank["loss"] == pytest.approx(alone.loss, rel=1e-6)  # summed in float32
        for name, weight in forecaster.state_dict().items():
            torch.testing.assert_close(rank["weights"][name], weight, rtol=1e-11, atol=1e-13)


def test_accumulated_batches_are_averaged_once(two_ranks: list[dict]) -> None:
    assert [rank["all_reduces"] for rank in two_ranks] == [1, 1]


def test_ranks_agree(two_ranks: list[dict]) -> None:
    for rank in two_ranks:
        assert rank["agreed"] == [1, 5]
        assert rank["shared"] == "of rank 0"
        assert rank["gathered"] == [0, 1]


@settings(max_examples=25, deadline=None)
@given(
    per_epoch=st.integers(1, 70),
    batch_size=st.integers(1, 9),
    ranks=st.integers(1, 5),
    epoch=st.integers(0, 3),
    workerless_start=st.integers(0, 3),
)
def test_shares_are_the_batch(
    per_epoch: int, batch_size: int, ranks: int, epoch: int, workerless_start: int
) -> None:
    """Without duplicates or losses, whatever is left for the last batch, wherever it begins."""
    fleet = small_fleet()
    store, index = WindowStore(fleet, SCHEMA), index_windows(fleet, SCHEMA)
    order = WindowOrder(len(index), 3, per_epoch)

    def batches(rank: int, size: int) -> list[WindowBatch]:
        loader = TrainLoader(store, index, order, batch_size, rank=rank, ranks=size)
        return list(loader.epoch(epoch, min(workerless_start, len(loader))))

    whole = batches(0, 1)
    shares = [batches(rank, ranks) for rank in range(ranks)]
    assert {len(share) for share in shares} == {len(whole)}
    for batch, *parts in zip(whole, *shares, strict=True):
        assert all(len(part.past) > 0 for part in parts), "DistributedDataParallel needs a batch"
        counted = [part for part in parts if part.future.isfinite().any()]
        futures = torch.cat([part.future for part in counted]).numpy()
        key = lambda rows: np.sort(np.nan_to_num(rows.reshape(len(rows), -1)), axis=0)  # noqa: E731
        np.testing.assert_array_equal(key(futures), key(batch.future.numpy()))
