"""Schema, normaliser and network as one thing: raw units in, raw units out.

B batch, T context, H horizon, M targets, Q quantiles.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tft.batch import WindowBatch
from tft.calibration import scale_gaps
from tft.history import HOURS_CHANNELS, NAIVE_FORECASTS, WINDOW_CHANNELS, days_of, summarise
from tft.model import TFT, TFTConfig, TFTInputs, TFTOutput
from tft.normalise import WindowNormaliser, WindowScale, presence_channels
from tft.quantiles import LossSum, quantile_loss
from tft.schema import UNKNOWN_CODE, FeatureSchema

# Spreads. Of the loss of a flat forecast on 1,024 Bitbrains windows, 1 % of them make up 74 %
# without clipping, 16 % clipped at 50, 10 % at 20.
TARGET_CLIP = 20.0
STATIC_CHANNELS = 2 + WINDOW_CHANNELS  # of a target: its level, its spread, and what was seen


@dataclass(frozen=True)
class TrainingFacts:
    """What a forecaster was trained on, so that nobody judges it on the same ticks."""

    servers: tuple[str, ...] = ()
    """Servers whose history was trained on."""
    end_tick: int = 0
    """First tick after every training window's last."""
    metric_low: tuple[float | None, ...] = ()
    """The 0.1 % quantile of each metric's training rows, targets first; None if never seen."""
    metric_high: tuple[float | None, ...] = ()
    """The 99.9 % quantile."""
    metric_peak: tuple[float | None, ...] = ()
    """The 99.5 % quantile: what is warned of where a metric has no better threshold."""
    server_level: tuple[float | None, ...] = ()
    """Median of each of `servers` and metric in training, server by server; None if unknown."""
    server_spread: tuple[float | None, ...] = ()
    """Standard deviation, in the same order."""


class Encoded(NamedTuple):
    """What the network reads, and the scale that leads back to raw units."""

    inputs: TFTInputs
    scale: WindowScale


def network_config(schema: FeatureSchema, **sizes: Any) -> TFTConfig:
    """Derive the network's inputs and outputs from a schema; `sizes` are other TFTConfig fields."""
    num_known, num_targets = len(schema.known), len(schema.targets)
    return TFTConfig(
        num_past=len(schema.metrics) + num_known,
        num_future=num_known + num_targets,
        num_targets=num_targets,
        num_static_reals=num_targets + len(schema.static_reals),
        future_channels=HOURS_CHANNELS + STATIC_CHANNELS,
        static_channels=STATIC_CHANNELS,
        num_naive=len(NAIVE_FORECASTS),
        static_cardinalities=(schema.server_buckets, len(schema.profiles) + 1),
        quantiles=schema.quantiles,
        **sizes,
    )


def past_names(schema: FeatureSchema) -> tuple[str, ...]:
    """Name the network's past variables in their order."""
    return (*schema.metric_names, *schema.known)


def future_names(schema: FeatureSchema) -> tuple[str, ...]:
    """Name the network's future variables in their order."""
    return (*schema.known, *(f"{name} before" for name in schema.target_names))


def static_names(schema: FeatureSchema) -> tuple[str, ...]:
    """Name the network's static variables in their order."""
    scales = (f"{name} of late" for name in schema.target_names)
    return (*schema.static_reals, *scales, "server", "profile")


class Forecaster(nn.Module):
    """A network with everything needed to feed it raw windows and read its forecasts."""

    quantiles: Tensor
    bounds: Tensor
    calibration: Tensor | None  # [H, M, Q - 1] factors of the gaps between quantiles

    def __init__(
        self,
        schema: FeatureSchema,
        network: TFT,
        normaliser: WindowNormaliser,
        unknown_rate: float = 0.0,
        calendar_dropout: float = 0.0,
        facts: TrainingFacts | None = None,
    ) -> None:
        """Bind the parts together.

        Args:
            schema: roles and lengths; must fit the network.
            network: built from `network_config(schema, ...)`.
            normaliser: fitted on training rows.
            unknown_rate: share of server and profile codes hidden in training, so that the
                forecast of a server never seen rests on its history.
            calendar_dropout: share of windows whose calendar is hidden in training, so that a few
                weeks' weekdays are not learnt by heart.
            facts: what it was trained on.

        Raises:
            ValueError: the network was built for other inputs than the schema's.
        """
        super().__init__()
        expected = network_config(schema)
        for name in (
            "num_past",
            "num_future",
            "num_targets",
            "num_static_reals",
            "future_channels",
            "static_channels",
            "num_naive",
            "static_cardinalities",
            "quantiles",
        ):
            if getattr(network.config, name) != getattr(expected, name):
                raise ValueError(
                    f"the network's {name} is {getattr(network.config, name)}, "
                    f"the schema needs {getattr(expected, name)}"
                )
        self.schema, self.network, self.normaliser = schema, network, normaliser
        self.unknown_rate, self.calendar_dropout = unknown_rate, calendar_dropout
        self.facts = facts or TrainingFacts()
        self.register_buffer("quantiles", torch.tensor(schema.quantiles), persistent=False)
        inf = float("inf")
        bounds = [
            (-inf if m.lower is None else m.lower, inf if m.upper is None else m.upper)
            for m in schema.targets
        ]
        self.register_buffer("bounds", torch.tensor(bounds).t(), persistent=False)  # [2, M]
        self.register_buffer("calibration", None)

    def encode(self, batch: WindowBatch) -> Encoded:
        """Turn raw windows into network inputs, in float32 whatever the autocast."""
        M, H = len(self.schema.targets), self.schema.prediction_horizon
        T, day = batch.past.shape[1], self.schema.day_ticks
        with torch.autocast(batch.past.device.type, enabled=False):
            batch = batch.to_dtype(self.normaliser.typical_level.dtype)
            raw, days = _finite(batch.past), _finite(days_of(batch.earlier, H, day))
            scale = self.normaliser.measure(raw, days)
            values = self.normaliser.normalise(raw, scale)
            days = self.normaliser.normalise(days.flatten(1, 2), scale).view_as(days)
            history = summarise(
                values[..., :M], days, batch.earlier, scale, self.schema.quantiles, day
            )
            level = self.normaliser.scale_features(scale)[:, :M]
            window = torch.cat([level, history.window], dim=-1)
            throughout = window.unsqueeze(1).expand(-1, H, -1, -1)
            past = presence_channels(values)
            known = self._hide_calendar(batch.known)
            known_past, known_future = known[:, :-H], known[:, -H:]
            inputs = TFTInputs(
                past=torch.cat([past, known_past[:, -T:]], dim=2),
                future=_beside(known_future, torch.cat([history.hours, throughout], dim=-1)),
                static_reals=_beside(self.normaliser.static_features(batch.static_reals), window),
                static_codes=self._hide_codes(batch.static_codes),
                past_seen=past[..., 1].any(-1),
                history_length=batch.history_length,
                naive=history.naive.clamp(-TARGET_CLIP, TARGET_CLIP),
                naive_seen=history.seen,
            )
        return Encoded(inputs, scale)

    def forward(self, batch: WindowBatch) -> LossSum:
        """Sum the quantile loss over a batch's observed targets, see `loss`."""
        return self.loss(*self.normalised(batch))

    def loss(self, forecast: Tensor, target: Tensor) -> LossSum:
        """Sum the quantile loss of normalised forecasts: in units of each window's spread.

        Targets are clipped: after a day of idling, one job is thousands of spreads away, and ten
        such windows would decide which epoch is best. Gradients hardly change, as the quantile
        loss's do not grow with the error.

        Args:
            forecast: [B, H, M, Q] of `normalised`.
            target: [B, H, M] of `normalised`, NaN where missing.
        """
        return quantile_loss(forecast, target.clamp(-TARGET_CLIP, TARGET_CLIP), self.quantiles)

    def normalised(self, batch: WindowBatch) -> tuple[Tensor, Tensor]:
        """Return quantiles [B, H, M, Q] and targets [B, H, M], in spreads around the level."""
        inputs, scale = self.encode(batch)
        return self.network(inputs).quantiles, self.normaliser.normalise(batch.future, scale)

    @torch.no_grad()
    def forecast(self, batch: WindowBatch, calibrated: bool = True) -> Tensor:
        """Return quantiles [B, H, M, Q] in raw units, ascending in Q and within the bounds.

        In evaluation mode, that is: in training mode dropout, hidden codes and calendars apply here
        too. Loss and training know of no calibration.
        """
        inputs, scale = self.encode(batch)
        return self.to_raw(self.network(inputs).quantiles, scale, calibrated)

    @torch.no_grad()
    def explain(self, batch: WindowBatch, return_weights: bool = False) -> TFTOutput:
        """Like `forecast`, with attention and selection weights where asked for."""
        inputs, scale = self.encode(batch)
        output: TFTOutput = self.network(inputs, return_weights)
        return output._replace(quantiles=self.to_raw(output.quantiles, scale))

    def to_raw(self, forecast: Tensor, scale: WindowScale, calibrated: bool = True) -> Tensor:
        """Map normalised quantiles to raw units; clamping to bounds keeps their order."""
        if calibrated and self.calibration is not None:
            forecast = scale_gaps(forecast, self.calibration, self.schema.quantiles.index(0.5))
        raw = self.normaliser.denormalise(forecast, scale)
        lower, upper = self.bounds[:, None, None, :, None]
        return raw.clamp(lower, upper)

    def _hide_calendar(self, known: Tensor) -> Tensor:
        """In training, replace a share of windows' calendars by the middle of its circles."""
        if not self.training or self.calendar_dropout == 0.0:
            return known
        hidden = torch.rand(len(known), device=known.device) < self.calendar_dropout
        return known.masked_fill(hidden.view(-1, 1, 1, 1), 0.0)

    def _hide_codes(self, codes: Tensor) -> Tensor:
        """In training, replace a share of the codes by the unknown code."""
        if not self.training or self.unknown_rate == 0.0:
            return codes
        hidden = torch.rand(codes.shape, device=codes.device) < self.unknown_rate
        return codes.masked_fill(hidden, UNKNOWN_CODE)


def _finite(values: Tensor) -> Tensor:
    """Return values with NaN for infinities."""
    return values.masked_fill(~values.isfinite(), torch.nan)


def _beside(narrow: Tensor, wide: Tensor) -> Tensor:
    """Put variables [..., V, C] of few channels before those of many, with zeros for the others."""
    return torch.cat([F.pad(narrow, (0, wide.shape[-1] - narrow.shape[-1])), wide], dim=-2)
