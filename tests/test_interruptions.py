"""Stops that come while validating, or with the loss of the loader's workers."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.builders import tiny_forecaster
from tests.test_checkpoint import nothing, train
from tests.test_loop import CONFIG, loaders, weights
from tft.batch import WindowBatch
from train.checkpoint import newest_checkpoint
from train.loop import fit
from train.run_dir import RunDirectory
from train.signals import Stopped, StopRequest
from train.state import TrainState


class Stopping:
    """A loader in the middle of which somebody asks for a stop; or which then loses a worker."""

    def __init__(self, loader: Any, stop: StopRequest, lost: bool = False) -> None:
        self.loader, self.stop, self.lost = loader, stop, lost

    def __iter__(self) -> Iterator[WindowBatch]:
        for batch in self.loader:
            yield batch
            self.stop.signal = signal.SIGTERM

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[WindowBatch]:
        for number, batch in enumerate(self.loader.epoch(epoch, first_batch)):
            if number == 3:
                self.stop.signal = signal.SIGTERM if self.lost else None
                raise ChildProcessError("a worker was lost")
            yield batch


def fit_stopping(path: Path, train_loader: Any, validation_loader: Any, stop: StopRequest) -> None:
    torch.manual_seed(0)
    forecaster = tiny_forecaster()
    forecaster.unknown_rate = 0.3
    run = RunDirectory(path, CONFIG)
    try:
        fit(TrainState(forecaster, CONFIG, "data"), train_loader, validation_loader, CONFIG, run,
            stop)  # fmt: skip
    finally:
        run.close()


def test_a_stop_while_validating_does_not_wait_for_all_of_it(tmp_path: Path) -> None:
    """A fleet's validation may take minutes; the epoch's steps are kept and not taken again."""
    whole, stop = train(tmp_path / "whole", CONFIG), StopRequest()
    train_loader, validation_loader = loaders(per_epoch=80)
    with pytest.raises(Stopped):
        fit_stopping(tmp_path / "run", train_loader, Stopping(validation_loader, stop), stop)
    found = newest_checkpoint(tmp_path / "run" / "checkpoints", nothing)
    assert found is not None and found[1]["numbers"]["step_in_epoch"] == 5
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert torch.equal(weights(train(tmp_path / "run", CONFIG, resume=True)), weights(whole))


def test_a_signal_that_takes_the_loaders_workers_too_is_a_stop(tmp_path: Path) -> None:
    """A service manager ends every process of a service at once; without it a loss is a loss."""
    whole, stop = train(tmp_path / "whole", CONFIG), StopRequest()
    train_loader, validation_loader = loaders(per_epoch=80)
    with pytest.raises(Stopped):
        fit_stopping(
            tmp_path / "run", Stopping(train_loader, stop, lost=True), validation_loader, stop
        )
    found = newest_checkpoint(tmp_path / "run" / "checkpoints", nothing)
    assert found is not None and found[1]["numbers"]["step_in_epoch"] == 3
    assert torch.equal(weights(train(tmp_path / "run", CONFIG, resume=True)), weights(whole))
    with pytest.raises(ChildProcessError):
        fit_stopping(
            tmp_path / "lost", Stopping(train_loader, StopRequest()), validation_loader,
            StopRequest(),
        )  # fmt: skip
