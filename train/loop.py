"""The training loop, in the order in which things happen."""

import math
import time
from dataclasses import dataclass

import torch

from tft.forecaster import Forecaster
from train.config import TrainConfig
from train.device import autocast
from train.progress import Progress
from train.run_dir import EpochRecord, RunDirectory, gpu_memory_mb, resident_memory_mb
from train.signals import Stopped, StopRequest
from train.state import TrainState
from train.step import TrainLoader, ValidationLoader, grouped, train_step

MAX_BAD_STEPS = 3  # in a row, before training stops


@dataclass(frozen=True)
class FitResult:
    """How a training ended."""

    epochs: int
    best_epoch: int  # from 1
    best_validation_loss: float
    final_train_loss: float
    final_validation_loss: float
    learning_rate: float  # at the start
    stopped_early: bool
    out_of_time: bool
    skipped_steps: int


def fit(
    state: TrainState,
    train_loader: TrainLoader,
    validation_loader: ValidationLoader,
    config: TrainConfig,
    run: RunDirectory,
    stop: StopRequest | None = None,
    deadline: float = math.inf,
) -> FitResult:
    """Train; the run directory holds the best epoch's forecaster at every moment after the first.

    Args:
        state: fresh, or of a checkpoint; changed in place.
        train_loader: shuffled batches.
        validation_loader: fixed batches that decide which epoch is best.
        config: see `TrainConfig`.
        run: where everything is recorded.
        stop: asked after every step whether to save and leave.
        deadline: `time.monotonic()` by which training should have ended, the last validation
            included once it is known how long one takes.

    Raises:
        FloatingPointError: three steps in a row had no finite gradient, or no epoch a finite loss.
        Stopped: on request, after saving a checkpoint.
    """
    stop = stop or StopRequest()
    steps = -(-len(train_loader) // config.accumulate_grad_batches)
    progress = Progress(config.epochs, steps, train_loader, deadline)
    validation_seconds, ended = 0.0, state.epoch - 1
    while not finished(state, config):
        started = time.monotonic()
        progress.start_epoch(state)
        train_epoch(state, train_loader, config, run, progress, stop, deadline - validation_seconds)
        trained = time.monotonic()
        record = finish_epoch(state, validation_loader, config, started, trained)
        validation_seconds = time.monotonic() - trained
        improved = state.best_epoch == state.epoch
        if improved:
            run.save_best(state.forecaster)
        run.log_epoch(record)
        progress.end_epoch(record, improved)
        ended = state.epoch
        if not state.out_of_time:  # else the rest of the epoch is left for --resume
            state.epoch += 1
            state.start_epoch()
            run.end_epoch(state)
            state.out_of_time = time.monotonic() + validation_seconds > deadline
        if stop.signal is not None:
            raise Stopped(stop.signal)
        if state.out_of_time:
            break
    return conclude(state, ended, config)


def conclude(state: TrainState, ended: int, config: TrainConfig) -> FitResult:
    """Say how a training ended, after so many epochs.

    Raises:
        FloatingPointError: no epoch had a finite validation loss.
    """
    if not math.isfinite(state.best_loss):
        raise FloatingPointError(
            f"no epoch had a finite validation loss; lower learning_rate ({state.learning_rate})"
        )
    return FitResult(
        epochs=ended,
        best_epoch=state.best_epoch,
        best_validation_loss=state.best_loss,
        final_train_loss=state.train_loss,
        final_validation_loss=state.validation_loss,
        learning_rate=state.learning_rate,
        stopped_early=ended - state.best_epoch >= config.early_stopping_patience,
        out_of_time=state.out_of_time,
        skipped_steps=state.skipped_steps,
    )


def finished(state: TrainState, config: TrainConfig) -> bool:
    """Tell whether every epoch has been trained, or enough of them in vain."""
    ended = state.epoch - 1
    return ended == config.epochs or ended - state.best_epoch >= config.early_stopping_patience


def train_epoch(
    state: TrainState,
    loader: TrainLoader,
    config: TrainConfig,
    run: RunDirectory,
    progress: Progress,
    stop: StopRequest,
    deadline: float,
) -> None:
    """Take the remaining steps of an epoch, or as many as there is time for.

    Raises:
        FloatingPointError: three steps in a row had no finite gradient.
        Stopped: on request, after saving a checkpoint.
    """
    state.forecaster.train()
    first_batch = state.step_in_epoch * config.accumulate_grad_batches
    for group in grouped(loader.epoch(state.epoch - 1, first_batch), config):
        result = train_step(state.forecaster, group, state.optimizer, state.scaler, config)
        state.count(result, sum(len(batch.past) for batch in group))
        if state.bad_steps == MAX_BAD_STEPS:
            raise FloatingPointError(
                f"epoch {state.epoch}, step {state.step_in_epoch}: {MAX_BAD_STEPS} steps in a row "
                f"without a finite gradient; lower learning_rate ({state.learning_rate}) or check "
                "the data"
            )
        run.log_step(state, result)
        progress.step(state.step_in_epoch)
        if stop.signal is not None:
            run.save_checkpoint(state)
            raise Stopped(stop.signal)
        if time.monotonic() > deadline:
            state.out_of_time = True
            run.save_checkpoint(state)
            return
        run.checkpoint_if_due(state)


def finish_epoch(
    state: TrainState, loader: ValidationLoader, config: TrainConfig, started: float, trained: float
) -> EpochRecord:
    """Validate, adapt the learning rate and remember whether the epoch is the best so far."""
    learning_rate = state.optimizer.param_groups[0]["lr"]
    state.train_loss = float(state.total / state.observed.clamp(min=1))
    state.validation_loss = validate(state.forecaster, loader, config)
    state.schedule.step(state.validation_loss)
    if state.validation_loss < state.best_loss:
        state.best_loss, state.best_epoch = state.validation_loss, state.epoch
    return EpochRecord(
        epoch=state.epoch,
        train_loss=state.train_loss,
        val_loss=state.validation_loss,
        learning_rate=learning_rate,
        time_seconds=time.monotonic() - started,
        gpu_memory_mb=gpu_memory_mb(state.device),
        windows=state.windows,
        windows_per_second=state.windows / (trained - started),
        best_val_loss=state.best_loss,
        skipped_steps=state.skipped_steps,
        memory_mb=resident_memory_mb(),
    )


@torch.no_grad()
def validate(forecaster: Forecaster, loader: ValidationLoader, config: TrainConfig) -> float:
    """Return the quantile loss per observed target, as trained on but without dropout."""
    device = forecaster.quantiles.device
    forecaster.eval()
    total = torch.zeros((), device=device)
    observed = torch.zeros((), device=device)
    for batch in loader:
        with autocast(config.precision, device):
            loss = forecaster.quantile_loss(batch.to(device, non_blocking=True))
        total += loss.total
        observed += loss.observed
    return float(total / observed.clamp(min=1))
