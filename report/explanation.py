"""What an explanation holds, see `report.explain`, and how it is said in JSON.

H horizon, L context and horizon.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from tft.schema import FeatureSchema

FloatArray = npt.NDArray[np.floating[Any]]


class Spread(NamedTuple):
    """A mean and how far what it is a mean of lies apart."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Variable:
    """One of the network's inputs, or a whole group of them."""

    group: str
    """past, future or static."""
    name: str
    weight: Spread
    """Selection weight, per cent of its group; from the 10 to the 90 % quantile over windows."""
    growth: Spread
    """Per cent the loss grows by when it is shuffled; smallest and largest of the shuffles."""
    growth_by_target: dict[str, float]
    """The mean growth of each target's own loss."""


@dataclass(frozen=True)
class Reading:
    """What was read off some windows: a server's, or all of them."""

    server: str | None
    """None: every server's windows together."""
    windows: int
    loss: float
    """Quantile loss per observed target tick, in spreads of each window."""
    variables: tuple[Variable, ...]
    together: tuple[Variable, ...]
    """Each group with all its variables shuffled at once."""
    on_history: float
    """Share of the attention that rests on the context; the rest is on the horizon's own steps."""
    by_lag: FloatArray  # [L] attention a tick of history gets from a step so many ticks after it,
    # 1 = as much as from one that looks at all of history alike; NaN where no step could look


@dataclass(frozen=True)
class Explanation:
    """What was read, and off what."""

    run: str
    data: str
    first_origin: str
    last_origin: str
    schema: FeatureSchema
    shuffles: int
    whole: Reading
    servers: tuple[Reading, ...]
    """In the order of the fleet; those with a window among the ones looked at."""
    by_step: FloatArray  # [H, L] attention of each step to each tick of context and horizon,
    # 1 = as much as from one that looks everywhere alike; NaN where it never may

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts, numbers and strings; None for what is not known."""
        return {
            "run": self.run,
            "data": self.data,
            "first_origin": self.first_origin,
            "last_origin": self.last_origin,
            "step_seconds": self.schema.step_seconds,
            "shuffles": self.shuffles,
            "whole": _plain(self.whole),
            "servers": [_plain(reading) for reading in self.servers],
        }


def _plain(reading: Reading) -> dict[str, Any]:
    """Return a reading as JSON can say it."""

    def variable(one: Variable) -> dict[str, Any]:
        return {
            "group": one.group,
            "name": one.name,
            "weight_percent": _known(one.weight._asdict()),
            "loss_growth_percent": _known(one.growth._asdict()),
            "loss_growth_percent_by_target": _known(one.growth_by_target),
        }

    return {
        "server": reading.server,
        "windows": reading.windows,
        "loss": reading.loss,
        "variables": [variable(one) for one in reading.variables],
        "together": [variable(one) for one in reading.together],
        "attention_on_history": reading.on_history,
        "attention_by_lag": list(_known(dict(enumerate(reading.by_lag.tolist()))).values()),
    }


def _known(numbers: dict[Any, float]) -> dict[Any, float | None]:
    """Put None where a number is not known."""
    return {name: value if np.isfinite(value) else None for name, value in numbers.items()}
