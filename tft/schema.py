"""What a forecaster was trained on: metrics, bounds, static columns, codes, window lengths."""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

DEFAULT_QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
DAY_SECONDS = 86_400
UNKNOWN_CODE = 0  # in every categorical input: a server or profile never seen in training


@dataclass(frozen=True)
class Metric:
    """One numeric column and the bounds its values cannot leave, in the column's own unit."""

    name: str
    lower: float | None = None
    upper: float | None = None

    def __post_init__(self) -> None:
        """Refuse bounds that leave no room for a value."""
        for bound in (self.lower, self.upper):
            if bound is not None and not math.isfinite(bound):
                raise ValueError(f"metric {self.name!r}: bound {bound} is not finite; leave it out")
        if self.lower is not None and self.upper is not None and self.lower >= self.upper:
            raise ValueError(
                f"metric {self.name!r}: lower bound {self.lower} is not below upper {self.upper}"
            )


def check_quantiles(levels: Sequence[float]) -> None:
    """Refuse levels no monotone head can be built for.

    Raises:
        ValueError: they do not ascend, lack the median, or leave (0, 1).
    """
    if list(levels) != sorted(set(levels)) or 0.5 not in levels:
        raise ValueError(f"quantiles {tuple(levels)} must ascend and contain 0.5")
    if levels[0] <= 0.0 or levels[-1] >= 1.0:
        raise ValueError(f"quantiles {tuple(levels)} must lie strictly between 0 and 1")


@dataclass(frozen=True)
class FeatureSchema:
    """Which columns play which role, and how long a window is.

    Metrics are ordered targets first, then observed: every tensor with a metric axis follows it.
    """

    targets: tuple[Metric, ...]
    """Forecast, and seen in the past."""
    observed: tuple[Metric, ...] = ()
    """Seen in the past only."""
    static_reals: tuple[str, ...] = ()
    """Numbers that do not change per server, such as its core count."""
    profiles: tuple[str, ...] = ()
    """Known server profiles; code 0 stands for any other."""
    known: tuple[str, ...] = ("hour_of_day", "day_of_week")
    """Calendar features, each a point on a circle, known for the whole horizon."""
    server_buckets: int = 64
    """Buckets of the stable hash of a server's name, bucket 0 (unknown) included."""
    step_seconds: int = 300
    """Seconds between ticks."""
    context_length: int = 288
    """Ticks of history the network sees."""
    min_context_length: int = 72
    """Fewest ticks of history in a training window; below it a forecast is a cold start."""
    prediction_horizon: int = 96
    """Ticks forecast."""
    days_before: int = 28
    """Days of the targets' history that are searched for moments like now, at least one."""
    quantiles: tuple[float, ...] = DEFAULT_QUANTILES
    """Levels forecast, ascending, the median among them."""

    def __post_init__(self) -> None:
        """Refuse a schema no network could be built for."""
        if not self.targets:
            raise ValueError("schema has no target metric; name at least one")
        names = [*self.metric_names, *self.static_reals]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"schema names {', '.join(repeated)} twice; give each one role")
        check_quantiles(self.quantiles)
        if not 1 <= self.min_context_length <= self.context_length:
            raise ValueError(
                f"min_context_length {self.min_context_length} must be between 1 and "
                f"context_length {self.context_length}"
            )
        for name in ("prediction_horizon", "step_seconds", "days_before"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} must be at least 1")
        if self.server_buckets < 2:
            raise ValueError(f"server_buckets {self.server_buckets} must be at least 2")

    @property
    def day_ticks(self) -> int:
        """Ticks in a day, of which a step longer than that is one."""
        return max(1, DAY_SECONDS // self.step_seconds)

    @property
    def earlier_ticks(self) -> int:
        """Ticks of the targets' history that are searched."""
        return self.days_before * self.day_ticks

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Every metric column, targets first."""
        return self.targets + self.observed

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of `metrics`, in order."""
        return tuple(metric.name for metric in self.metrics)

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the forecast metrics, in order."""
        return tuple(metric.name for metric in self.targets)

    def server_code(self, name: str) -> int:
        """Return the bucket of a server's name: the same in every process and Python."""
        return 1 + stable_hash(name) % (self.server_buckets - 1)

    def profile_code(self, name: str | None) -> int:
        """Return the code of a profile, 0 when it was not seen in training."""
        return 1 + self.profiles.index(name) if name in self.profiles else UNKNOWN_CODE

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts, numbers and strings."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "FeatureSchema":
        """Build a schema from what `to_dict` returned.

        Raises:
            ValueError: a field is missing or unknown, or the schema contradicts itself.
        """
        known = {field.name for field in fields(cls)}
        if set(plain) != known:
            raise ValueError(
                f"schema fields differ: missing {sorted(known - set(plain))}, "
                f"unknown {sorted(set(plain) - known)}"
            )
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, (list, tuple)) else value
            for name, value in plain.items()
        }
        for role in ("targets", "observed"):
            values[role] = tuple(Metric(**metric) for metric in plain[role])
        return cls(**values)


def stable_hash(name: str) -> int:
    """Return a number of 64 bits: the same in every process and Python, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
