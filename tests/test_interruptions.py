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
from tft.bundle import load_forecaster
from train.checkpoint import newest_checkpoint
from train.loop import fit
from train.run_dir import RunDirectory
from train.signals import Stopped, StopRequest
from train.state import TrainState


class Stopping:
    """A loader in the middle of which somebody asks for a stop; or which then loses a worker."""

    def __init__(self, loader: Any, stop: StopRequest, lost: bool = False, passes: int = 0) -> None:
        self.loader, self.stop, self.lost = loader, stop, lost
        self.passes = passes  # over all of it, undisturbed, before

    def __iter__(self) -> Iterator[WindowBatch]:
        self.passes -= 1
        for batch in self.loader:
            yield batch
            if self.passes < 0:
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


def fit_stopping(
    path: Path, train_loader: Any, validation_loader: Any, stop: StopRequest, resume: bool = False
) -> None:
    torch.manual_seed(0)
    forecaster = tiny_forecaster()
    forecaster.unknown_rate = forecaster.calendar_dropout = 0.3
    run = RunDirectory(path, CONFIG, resume)
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
        validation_loader = Stopping(validation_loader, stop, passes=1)
        fit_stopping(tmp_path / "run", train_loader, validation_loader, stop)
    found = newest_checkpoint(tmp_path / "run" / "checkpoints", nothing)
    assert found is not None and found[1]["numbers"]["step_in_epoch"] == 5
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert torch.equal(weights(train(tmp_path / "run", CONFIG, resume=True)), weights(whole))


def test_a_stop_before_the_first_step_loses_nothing(tmp_path: Path) -> None:
    """There is no checkpoint yet, and the run begins anew, as if nothing had happened."""
    train_loader, validation_loader = loaders(per_epoch=80)
    fit_stopping(tmp_path / "whole", train_loader, validation_loader, StopRequest())
    stop = StopRequest()
    with pytest.raises(Stopped):
        fit_stopping(tmp_path / "run", train_loader, Stopping(validation_loader, stop), stop)
    assert newest_checkpoint(tmp_path / "run" / "checkpoints", nothing) is None
    fit_stopping(tmp_path / "run", train_loader, validation_loader, StopRequest(), resume=True)
    kept = load_forecaster(tmp_path / "run" / "model")
    assert torch.equal(weights(kept), weights(load_forecaster(tmp_path / "whole" / "model")))


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
