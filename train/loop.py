"""The training loop, in the order in which things happen."""

import itertools
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import ReduceLROnPlateau

from data.loaders import EvalLoader, TrainLoader
from tft.batch import WindowBatch
from tft.forecaster import Forecaster
from train.config import TrainConfig
from train.precision import autocast, grad_scaler
from train.progress import Progress
from train.run_dir import EpochRecord, RunDirectory, gpu_memory_mb, resident_memory_mb

MAX_BAD_STEPS = 3  # in a row, before training stops


@dataclass(frozen=True)
class FitResult:
    """How a training ended."""

    epochs: int
    best_epoch: int  # from 1
    best_validation_loss: float
    final_train_loss: float
    final_validation_loss: float
    stopped_early: bool
    out_of_time: bool
    skipped_steps: int


class TrainState:
    """Everything that changes while training."""

    def __init__(self, forecaster: Forecaster, config: TrainConfig) -> None:
        """Start from a forecaster, on the device it is on."""
        self.forecaster = forecaster
        self.device = forecaster.quantiles.device
        self.optimizer = make_optimizer(forecaster, config)
        self.schedule = ReduceLROnPlateau(
            self.optimizer, factor=0.5, patience=config.plateau_patience
        )
        self.scaler = grad_scaler(config.precision, self.device)
        self.epoch, self.step = 1, 0  # the epoch at hand, and steps taken in all
        self.best_loss, self.best_epoch = math.inf, 0
        self.bad_steps, self.skipped_steps = 0, 0  # in a row; in all
        self.out_of_time = False
        self.start_epoch()

    def start_epoch(self) -> None:
        """Forget the last epoch's sums."""
        self.total = torch.zeros((), device=self.device)
        self.observed = torch.zeros((), device=self.device)
        self.windows = 0


def fit(
    forecaster: Forecaster,
    train_loader: TrainLoader,
    validation_loader: EvalLoader,
    config: TrainConfig,
    run: RunDirectory,
    deadline: float = math.inf,
) -> FitResult:
    """Train; the run directory holds the best epoch's forecaster at every moment after the first.

    Args:
        forecaster: trained in place, on the device it is on.
        train_loader: shuffled batches.
        validation_loader: fixed batches that decide which epoch is best.
        config: see `TrainConfig`.
        run: where everything is recorded.
        deadline: `time.monotonic()` by which the last validation should have ended.

    Raises:
        FloatingPointError: three steps in a row had no finite gradient, or no epoch a finite loss.
    """
    state = TrainState(forecaster, config)
    steps = -(-len(train_loader) // config.accumulate_grad_batches)
    progress = Progress(config.epochs, steps, train_loader.windows_per_epoch, deadline)
    validation_seconds = 0.0
    while True:
        started = time.monotonic()
        progress.start_epoch(state.epoch)
        train_epoch(state, train_loader, config, run, progress, deadline - validation_seconds)
        trained = time.monotonic()
        record = finish_epoch(state, validation_loader, config, started, trained)
        validation_seconds = time.monotonic() - trained
        improved = state.best_epoch == state.epoch
        if improved:
            run.save_best(forecaster)
        run.save_last(forecaster)
        run.log_epoch(record)
        progress.end_epoch(record, improved)
        stopped_early = state.epoch - state.best_epoch >= config.early_stopping_patience
        if state.out_of_time or stopped_early or state.epoch == config.epochs:
            break
        state.epoch += 1

    if not math.isfinite(state.best_loss):
        raise FloatingPointError(
            f"no epoch had a finite validation loss; lower learning_rate ({config.learning_rate})"
        )
    return FitResult(
        epochs=state.epoch,
        best_epoch=state.best_epoch,
        best_validation_loss=state.best_loss,
        final_train_loss=record.train_loss,
        final_validation_loss=record.val_loss,
        stopped_early=stopped_early,
        out_of_time=state.out_of_time,
        skipped_steps=state.skipped_steps,
    )


def train_epoch(
    state: TrainState,
    loader: TrainLoader,
    config: TrainConfig,
    run: RunDirectory,
    progress: Progress,
    deadline: float,
) -> None:
    """Take the steps of an epoch, or as many as there is time for.

    Raises:
        FloatingPointError: three steps in a row had no finite gradient.
    """
    state.start_epoch()
    state.forecaster.train()
    for step, group in enumerate(grouped(loader.epoch(state.epoch - 1), config), 1):
        result = train_step(state.forecaster, group, state.optimizer, state.scaler, config)
        state.step += 1
        state.windows += sum(len(batch.past) for batch in group)
        if result.applied:
            state.total += result.total
            state.observed += result.observed
        state.bad_steps = 0 if result.applied else state.bad_steps + 1
        state.skipped_steps += not result.applied
        if state.bad_steps == MAX_BAD_STEPS:
            raise FloatingPointError(
                f"epoch {state.epoch}, step {step}: {MAX_BAD_STEPS} steps in a row without a "
                f"finite gradient; lower learning_rate ({config.learning_rate}) or check the data"
            )
        run.log_step(state.step, result, state.optimizer)
        progress.step(step)
        if time.monotonic() > deadline:
            state.out_of_time = True
            return


def finish_epoch(
    state: TrainState, loader: EvalLoader, config: TrainConfig, started: float, trained: float
) -> EpochRecord:
    """Validate, adapt the learning rate and remember whether the epoch is the best so far."""
    learning_rate = state.optimizer.param_groups[0]["lr"]
    loss = validate(state.forecaster, loader, config)
    state.schedule.step(loss)
    if loss < state.best_loss:
        state.best_loss, state.best_epoch = loss, state.epoch
    return EpochRecord(
        epoch=state.epoch,
        train_loss=float(state.total / state.observed.clamp(min=1)),
        val_loss=loss,
        learning_rate=learning_rate,
        time_seconds=time.monotonic() - started,
        gpu_memory_mb=gpu_memory_mb(state.device),
        windows=state.windows,
        windows_per_second=state.windows / (trained - started),
        best_val_loss=state.best_loss,
        skipped_steps=state.skipped_steps,
        memory_mb=resident_memory_mb(),
    )


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did; tensors stay on the device."""

    total: Tensor  # [] loss summed over observed targets
    observed: Tensor  # [] number of observed targets
    gradient_norm: Tensor  # [] before clipping
    applied: bool


def train_step(
    forecaster: Forecaster,
    group: list[WindowBatch],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    config: TrainConfig,
) -> StepResult:
    """Take one optimizer step over a group of batches, as if they were one batch."""
    device = forecaster.quantiles.device
    group = [batch.to(device, non_blocking=True) for batch in group]
    observed = torch.stack([batch.future.isfinite().sum() for batch in group]).sum()
    total = torch.zeros((), device=device)
    for batch in group:
        with autocast(config.precision, device):
            loss = forecaster.quantile_loss(batch).total
        torch.autograd.backward(scaler.scale(loss / observed.clamp(min=1)))
        total += loss.detach()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(forecaster.parameters(), config.gradient_clip_val)
    applied = bool(norm.isfinite())  # waits for the device, once a step
    if applied:
        scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(total, observed, norm, applied)


@torch.no_grad()
def validate(forecaster: Forecaster, loader: Iterable[WindowBatch], config: TrainConfig) -> float:
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


def grouped(batches: Iterator[WindowBatch], config: TrainConfig) -> Iterator[list[WindowBatch]]:
    """Yield the batches of each optimizer step; the last group of an epoch may be smaller."""
    while group := list(itertools.islice(batches, config.accumulate_grad_batches)):
        yield group


def make_optimizer(forecaster: Forecaster, config: TrainConfig) -> AdamW:
    """Return AdamW; weight decay spares biases and norms, whose size is not complexity."""
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for name, parameter in forecaster.named_parameters():
        spare = parameter.ndim < 2 or "bias" in name or "norm" in name
        (spared if spare else decayed).append(parameter)
    return AdamW(
        [
            {"params": decayed, "weight_decay": config.weight_decay},
            {"params": spared, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
        fused=True,
    )
