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
from train.ranks import ALONE, Ranks, without_averaging

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

    def names(self, epoch: int, batch: int) -> list[str]:
        """Name the windows of a batch, every rank's, for a person."""


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
    model: nn.Module,
    group: list[WindowBatch],
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    config: TrainConfig,
    ranks: Ranks = ALONE,
) -> StepResult:
    """Take one optimizer step over a group of batches, of all ranks, as if they were one batch.

    Args:
        model: a forecaster, or one wrapped by `ranks`.
        group: this rank's share of each batch.
        optimizer: of the model's parameters.
        scaler: see `grad_scaler`.
        config: precision and clipping.
        ranks: the processes that take this step together.
    """
    device = next(model.parameters()).device
    group = [batch.to(device, non_blocking=True) for batch in group]
    observed = ranks.sum(torch.stack([batch.future.isfinite().sum() for batch in group]).sum())
    share = ranks.size / observed.clamp(min=1)  # ranks' gradients are averaged, ours add up
    total = torch.zeros((), device=device)
    for number, batch in enumerate(group, 1):
        with without_averaging(model, later=number < len(group)):
            with autocast(config.precision, device):
                loss = model(batch).total.sum()
            torch.autograd.backward(scaler.scale(loss * share))
        total += loss.detach()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip_val)
    applied = bool(norm.isfinite())  # waits for the device, once a step
    if applied:
        scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(ranks.sum(total), observed, norm, applied)


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
