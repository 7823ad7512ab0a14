"""Windows by kind: servers trained on and others, held out or not, with whole or short histories.

W windows, S servers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from data.fleet import BoolArray, Fleet, IntArray
from data.splits import spread_evenly
from data.windows import index_windows
from report.batches import JudgedBatch, judged_batches
from report.results import GroupScores
from report.scores import ScoreSums
from tft.forecaster import Forecaster
from tft.schema import FeatureSchema

COLD_HOURS = (1.0, 6.0, 24.0)  # of history, as new servers have
COLD_WINDOWS = 512  # most, for each of these lengths


@dataclass(frozen=True)
class ValidationPart:
    """The ticks whose forecasts chose the best epoch."""

    begin: int
    """Its first tick, absolute."""
    end: int
    """The tick after its last."""
    servers: frozenset[str] | None
    """Servers validated; None: every one."""

    def overlaps(self, fleet: Fleet, server: IntArray, origin: IntArray, horizon: int) -> BoolArray:
        """Tell of windows [W] whether any tick they forecast lies in it."""
        chosen = [self.servers is None or name in self.servers for name in fleet.servers]
        inside = (origin < self.end) & (origin + horizon > self.begin)
        result: BoolArray = inside & np.array(chosen)[server]
        return result


class GroupSums:
    """Every forecaster's scores of windows of one kind."""

    def __init__(self, schema: FeatureSchema, new: bool, validation: bool | None) -> None:
        """Start with nothing added; the rest as in `GroupScores`."""
        self.schema, self.new, self.validation = schema, new, validation
        self.sums: dict[str, ScoreSums] = {}
        self._servers: set[int] = set()

    def add(self, batch: JudgedBatch, server: IntArray, members: BoolArray) -> None:
        """Add those windows of a batch that are members; server numbers and members are [N]."""
        if not members.any():
            return
        self._servers |= set(server[members].tolist())
        for name, forecast in batch.forecasts.items():
            sums = self.sums.setdefault(name, new_sums(self.schema))
            sums.add(forecast[members], batch.actual[members], batch.yesterday[members])

    def result(self, history_hours: float | None = None) -> GroupScores:
        """Return the scores so far, of at least one window."""
        step = self.schema.step_seconds
        cold = self.schema.min_context_length * step
        return GroupScores(
            name=_name(self.new, self.validation, history_hours),
            servers=len(self._servers),
            windows=next(iter(self.sums.values())).windows,
            new=self.new,
            validation=self.validation,
            history_hours=history_hours,
            cold_start=history_hours is not None and history_hours * 3600 < cold,
            scores={name: sums.rows() for name, sums in self.sums.items()},
        )


def new_sums(schema: FeatureSchema) -> ScoreSums:
    """Return sums for one forecaster, nothing added."""
    horizon, step = schema.prediction_horizon, schema.step_seconds
    return ScoreSums(schema.target_names, schema.quantiles, horizon, step)


def merged(schema: FeatureSchema, groups: Iterable[GroupSums]) -> dict[str, ScoreSums]:
    """Return the sums of all groups together, by forecaster."""
    total: dict[str, ScoreSums] = {}
    for group in groups:
        for name, sums in group.sums.items():
            total.setdefault(name, new_sums(schema)).merge(sums)
    return total


def cold_start_groups(
    forecaster: Forecaster, fleet: Fleet, validation: ValidationPart | None = None
) -> tuple[GroupScores, ...]:
    """Score servers never trained on as if they had begun 1, 6 and 24 hours before the forecast.

    The model and the naive forecasts see the same short history, and every length is scored on
    the same windows: those with the longest of these histories, held out ones if there are any.

    Args:
        forecaster: in evaluation mode.
        fleet: read with the forecaster's schema.
        validation: what chose the best epoch; None: nobody knows.

    Returns:
        A group per length that the context holds; none where every server was trained on.
    """
    schema, known = forecaster.schema, forecaster.facts.servers
    lengths = {hours: int(hours * 3600) // schema.step_seconds for hours in COLD_HOURS}
    lengths = {h: ticks for h, ticks in lengths.items() if 1 <= ticks <= schema.context_length}
    new = np.flatnonzero([name not in known for name in fleet.servers])
    if not lengths or not len(new):
        return ()
    longest = replace(schema, min_context_length=max(lengths.values()))
    index = index_windows(fleet, longest, servers=new)
    server, origin = index.lookup(spread_evenly(len(index), COLD_WINDOWS))
    if not len(server):
        return ()
    horizon, seen = schema.prediction_horizon, None
    if validation is not None:
        held_out = ~validation.overlaps(fleet, server, origin, horizon)
        seen = not held_out.any()
        if not seen:
            server, origin = server[held_out], origin[held_out]
    results = []
    for hours, ticks in lengths.items():
        short = with_short_histories(fleet, server, origin, ticks, horizon)
        sums = GroupSums(schema, new=True, validation=seen)
        for batch in judged_batches(forecaster, short, np.arange(len(server)), origin):
            of_batch = server[batch.windows]
            sums.add(batch, of_batch, np.ones(len(of_batch), dtype=np.bool_))
        results.append(sums.result(hours))
    return tuple(results)


def with_short_histories(
    fleet: Fleet, server: IntArray, origin: IntArray, ticks: int, horizon: int
) -> Fleet:
    """Return a fleet with a server for every window, that began `ticks` before its origin.

    Args:
        fleet: series that reach from there to the end of the horizon.
        server: [W] server numbers.
        origin: [W] absolute ticks, the first to forecast.
        ticks: of history.
        horizon: ticks kept from the origin on.
    """
    first = fleet.offsets[server] + origin - fleet.first_tick[server] - ticks
    rows = first[:, None] + np.arange(ticks + horizon)
    return replace(
        fleet,
        servers=tuple(fleet.servers[s] for s in server),
        profiles=tuple(fleet.profiles[s] for s in server),
        values=fleet.values[rows.ravel()],
        offsets=(ticks + horizon) * np.arange(len(server) + 1),
        first_tick=origin - ticks,
        static=fleet.static[server],
    )


def _name(new: bool, validation: bool | None, history_hours: float | None) -> str:
    """Name a kind of windows."""
    who = "new servers" if new else "known servers"
    if history_hours is not None:
        return f"{who}, {history_hours:g} h of history"
    return who if validation is None else f"{who}, {'validation' if validation else 'held out'}"
