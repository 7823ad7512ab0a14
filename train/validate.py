"""What decides which epoch is best.

M targets.
"""

from dataclasses import dataclass

import torch

from tft.forecaster import Forecaster
from train.config import TrainConfig
from train.device import autocast
from train.ranks import ALONE, Ranks
from train.signals import Stopped, StopRequest
from train.step import ValidationLoader


@dataclass(frozen=True)
class Validation:
    """How a forecaster does on the validation windows."""

    loss: float
    """Quantile loss per observed target, as trained on but without dropout."""
    loss_by_metric: dict[str, float]
    """The same of each target that was observed."""
    coverage_by_metric: dict[str, float]
    """Share of its observed ticks inside the 80 % interval."""


@torch.no_grad()
def validate(
    forecaster: Forecaster,
    loader: ValidationLoader,
    config: TrainConfig,
    ranks: Ranks = ALONE,
    stop: StopRequest | None = None,
) -> Validation:
    """Measure loss and coverage over all batches, of all ranks.

    Raises:
        Stopped: on request; with other ranks, who may have a batch fewer, it is heard afterwards.
    """
    device, schema = forecaster.quantiles.device, forecaster.schema
    low, high = schema.quantiles.index(0.1), schema.quantiles.index(0.9)
    forecaster.eval()
    sums = torch.zeros(3, len(schema.targets), dtype=torch.float64, device=device)
    for batch in loader:
        if stop is not None and stop.signal is not None and ranks.size == 1:
            raise Stopped(stop.signal)
        with autocast(config.precision, device):
            forecast, target = forecaster.normalised(batch.to(device, non_blocking=True))
            loss = forecaster.loss(forecast, target)
        inside = (forecast[..., low] <= target) & (target <= forecast[..., high])  # NaN: false
        sums += torch.stack([loss.total, loss.observed, inside.sum((0, 1))])
    total, observed, inside_sum = ranks.sum(sums).cpu()
    seen = [(name, m) for m, name in enumerate(schema.target_names) if observed[m] > 0]
    return Validation(
        loss=float(total.sum() / observed.sum().clamp(min=1)),
        loss_by_metric={name: float(total[m] / observed[m]) for name, m in seen},
        coverage_by_metric={name: float(inside_sum[m] / observed[m]) for name, m in seen},
    )
