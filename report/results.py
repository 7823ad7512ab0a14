"""What an evaluation found, as plain data."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from report.scores import Scores


@dataclass(frozen=True)
class ForecasterScores:
    """How one forecaster did on the windows of an evaluation."""

    name: str
    rows: tuple[Scores, ...]
    """One row per metric, then their mean."""
    buckets: Mapping[str, tuple[Scores, ...]]
    """The same rows for each horizon bucket, by its name, nearest first."""
    seconds: float
    """Time to forecast all windows."""


@dataclass(frozen=True)
class Interval:
    """How often and how widely a central interval held what came."""

    lower: float
    """Level of its lower quantile."""
    upper: float
    """Level of its upper quantile."""
    coverage: float
    """Share of actuals inside it."""
    width: float
    """Mean width, in the metric's unit."""


@dataclass(frozen=True)
class Calibration:
    """Whether the model's quantiles of one metric lie where they say."""

    metric: str
    levels: tuple[float, ...]
    """Quantile levels forecast."""
    at_or_below: tuple[float, ...]
    """Share of actuals at or below the forecast of each level; the level itself is right."""
    intervals: tuple[Interval, ...]
    """Every symmetric pair of levels, widest first."""
    within_10_points: float | None
    """Share of actuals within 10 points of the median; None where the metric is no percentage."""


@dataclass(frozen=True)
class GroupScores:
    """How every forecaster did on windows of one kind."""

    name: str
    servers: int
    """Servers with such a window among those scored."""
    windows: int
    """Windows scored."""
    new: bool
    """Whether its servers were never trained on."""
    validation: bool | None
    """Whether its windows may have chosen the best epoch; None: nobody knows."""
    history_hours: float | None
    """Hours that its windows' histories were cut to; None: they are whole."""
    cold_start: bool
    """Whether these histories are shorter than any training window's."""
    scores: Mapping[str, tuple[Scores, ...]]
    """By forecaster: one row per metric, then their mean."""


@dataclass(frozen=True)
class ServerScores:
    """How the model and the flat forecast did on one server, mean over its metrics."""

    server: str
    new: bool
    """Whether it was never trained on."""
    windows: int
    """Windows scored."""
    observed: int
    """Target ticks scored."""
    wql: float
    """Weighted quantile loss of the model."""
    flat_wql: float
    """That of the flat forecast: the last day's own quantiles, held."""
    worst_metric: str
    """The metric with the model's highest weighted quantile loss; empty where none has one."""


@dataclass(frozen=True)
class Latency:
    """How fast the model forecast in this evaluation, windows gathered already."""

    device: str
    """What it ran on."""
    threads: int
    """CPU threads PyTorch used."""
    batch_size: int
    """Windows in a batch of the throughput."""
    windows_per_second: float
    """Over all windows, batch by batch."""
    one_window_ms: float
    """Median time to forecast a single window."""


@dataclass(frozen=True)
class EvaluationReport:
    """What was evaluated, on what, and how every forecaster did."""

    run: str
    """Name of the run or bundle."""
    data: str
    """File name of the table, without its folder: a report names no path of a machine."""
    servers_known: int
    """Servers seen in training."""
    servers_new: int
    """Servers never seen in training."""
    windows: int
    """Windows every forecaster was scored on."""
    not_finite: int
    """Observed target ticks for which the model forecast NaN or infinity."""
    first_origin: str
    """UTC time of the earliest first forecast tick, ISO 8601."""
    last_origin: str
    """UTC time of the latest first forecast tick, ISO 8601."""
    step_seconds: int
    """Seconds between ticks."""
    horizon: int
    """Ticks forecast."""
    forecasters: tuple[ForecasterScores, ...]
    """The model first, then what it is compared with."""
    calibration: tuple[Calibration, ...]
    """The model's, of every metric."""
    groups: tuple[GroupScores, ...]
    """The windows by kind, then those of new servers with their history cut."""
    servers: tuple[ServerScores, ...]
    """Every server scored, by name."""
    seconds: float
    """Time the whole evaluation took."""
    latency: Latency | None = None
    """None where it was not measured."""

    def __post_init__(self) -> None:
        """Refuse a path where a name belongs."""
        for field in ("run", "data"):
            value = getattr(self, field)
            if "/" in value or "\\" in value:
                raise ValueError(f"{field} {value!r} is a path; give its last part only")

    @property
    def model(self) -> ForecasterScores:
        """The scores of the model itself."""
        return self.forecasters[0]

    @property
    def naives(self) -> tuple[ForecasterScores, ...]:
        """The scores of what it is compared with."""
        return self.forecasters[1:]

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; scores that are not finite are None."""
        plain: dict[str, Any] = as_json(asdict(self))
        return plain


def as_json(value: Any) -> Any:
    """Return plain data with None for NaN and infinity, which JSON cannot say."""
    if isinstance(value, Mapping):
        return {key: as_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
