"""One optimizer step."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from tft.batch import WindowBatch
from tft.forecaster import Forecaster
from train.config import TrainConfig
from train.device import autocast

ValidationLoader = Iterable[WindowBatch]


class TrainLoader(Protocol):
    """What training needs of a loader; where its batches come from is not training's business."""

    @property
    def windows_per_epoch(self) -> int:
        """Windows in an epoch."""

    @property
    def sampled(self) -> bool:
        """Whether an epoch leaves windows out."""

    def __len__(self) -> int:
        """Batches in an epoch."""

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[WindowBatch]:
        """Yield the batches of an epoch, numbered from 0, from `first_batch` on."""


@dataclass(frozen=True)
class StepResult:
    """What one optimizer step did; tensors stay on the device."""

    total: Tensor  # [] loss summed over observed targets
    observed: Tensor  # [] number of observed targets
    gradient_norm: Tensor  # [] before clipping
    applied: bool

    @property
    def loss(self) -> float:
        """Loss per observed target; waits for the device."""
        return float(self.total / self.observed.clamp(min=1))


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
