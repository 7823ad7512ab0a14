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
        FloatingPointError: three steps in a row had no finite gradient.
    """
    device = forecaster.quantiles.device
    optimizer = make_optimizer(forecaster, config)
    schedule = ReduceLROnPlateau(optimizer, factor=0.5, patience=config.plateau_patience)
    scaler = grad_scaler(config.precision, device)
    steps_per_epoch = -(-len(train_loader) // config.accumulate_grad_batches)
    progress = Progress(config.epochs, steps_per_epoch, train_loader.windows_per_epoch, deadline)
    best, best_epoch, bad_steps, skipped, out_of_time = math.inf, 0, 0, 0, False
    validation_seconds = 0.0
    train_loss = validation_loss = math.nan

    for epoch in range(1, config.epochs + 1):
        started = time.monotonic()
        forecaster.train()
        total = torch.zeros((), device=device)
        observed = torch.zeros((), device=device)
        windows = 0
        progress.start_epoch(epoch)
        for step, group in enumerate(grouped(train_loader.epoch(epoch - 1), config), 1):
            result = train_step(forecaster, group, optimizer, scaler, config)
            windows += sum(len(batch.past) for batch in group)
            if result.applied:
                total += result.total
                observed += result.observed
            bad_steps = 0 if result.applied else bad_steps + 1
            skipped += not result.applied
            if bad_steps == MAX_BAD_STEPS:
                raise FloatingPointError(
                    f"epoch {epoch}, step {step}: {MAX_BAD_STEPS} steps in a row without a finite "
                    f"gradient; lower learning_rate ({config.learning_rate}) or check the data"
                )
            run.log_step((epoch - 1) * steps_per_epoch + step, result, optimizer)
            progress.step(step)
            if time.monotonic() + validation_seconds > deadline:
                out_of_time = True
                break

        train_loss = float(total / observed.clamp(min=1))
        validation_started = time.monotonic()
        learning_rate = optimizer.param_groups[0]["lr"]
        validation_loss = validate(forecaster, validation_loader, config)
        validation_seconds = time.monotonic() - validation_started
        schedule.step(validation_loss)
        improved = validation_loss < best
        if improved:
            best, best_epoch = validation_loss, epoch
            run.save_best(forecaster)
        run.save_last(forecaster)
        record = EpochRecord(
            epoch=epoch,
            train_loss=train_loss,
            val_loss=validation_loss,
            learning_rate=learning_rate,
            time_seconds=time.monotonic() - started,
            gpu_memory_mb=gpu_memory_mb(device),
            windows=windows,
            windows_per_second=windows / (validation_started - started),
            best_val_loss=best,
            skipped_steps=skipped,
            memory_mb=resident_memory_mb(),
        )
        run.log_epoch(record)
        progress.end_epoch(record, improved)
        if out_of_time or epoch - best_epoch >= config.early_stopping_patience:
            break

    if not math.isfinite(best):
        raise FloatingPointError(
            f"no epoch had a finite validation loss; lower learning_rate ({config.learning_rate})"
        )
    return FitResult(
        epochs=epoch,
        best_epoch=best_epoch,
        best_validation_loss=best,
        final_train_loss=train_loss,
        final_validation_loss=validation_loss,
        stopped_early=not out_of_time and epoch < config.epochs,
        out_of_time=out_of_time,
        skipped_steps=skipped,
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
