"""What a forecaster rests on: which inputs it weighs, where it looks, what it loses without them.

Selection weights and attention are what the network does. Permutation importance is measured: how
much the quantile loss grows when a variable's values come from another window. All of it on windows
the forecaster was not trained on, of network inputs as `tft.forecaster` names them.

B batch, T context, H horizon, L = T + H, V variables, C changes (a variable or a whole group is
shuffled), R shuffles, S servers, M targets.
"""

import difflib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from data.fleet import Fleet, IntArray
from data.splits import spread_evenly
from data.windows import WindowIndex, WindowStore
from report.evaluate import held_out_windows, iso_time
from report.explanation import Explanation, FloatArray, Reading, Spread, Variable
from report.weights import (
    beside_even,
    history_by_lag,
    selection_weights,
    share_on_history,
    variable_names,
)
from tft.analogs import LIKENESSES
from tft.batch import WindowBatch
from tft.forecaster import Forecaster
from tft.history import NAIVE_FORECASTS
from tft.model import TFTInputs, TFTOutput
from tft.schema import FeatureSchema

SHUFFLES = 3
BATCH_SIZE = 64
LOW, HIGH = 0.1, 0.9  # of the windows' selection weights
SEED = 0  # of the shuffles: the same run and table give the same figures
BEFORE = [NAIVE_FORECASTS.index(name) for name in LIKENESSES]
"""Naive forecasts that are of the future variables; the others are of the past ones."""
DRAWN = 4  # candidates for each window values are taken from, see `_draw_donors`


class Change(NamedTuple):
    """Variables of a group whose values come from other windows."""

    group: str
    columns: tuple[int, ...]


def explain(
    forecaster: Forecaster,
    fleet: Fleet,
    run_name: str,
    data_name: str,
    server: str | None = None,
    windows: int | None = 256,
    progress: Callable[[float], None] | None = None,
) -> Explanation:
    """Read weights, attention and permutation importance off windows not trained on.

    Memory is one batch's, plus a number per window and variable.

    Args:
        forecaster: in evaluation mode.
        fleet: read with the forecaster's schema.
        run_name: for the pages.
        data_name: for the pages, without a folder.
        server: look at this server's windows only; shuffled values still come from the fleet.
        windows: most windows, evenly spaced; None: all of them.
        progress: called with the fraction done.

    Raises:
        ValueError: there is no window to look at, or no such server.
    """
    schema = forecaster.schema
    everywhere = held_out_windows(fleet, forecaster).windows
    index = everywhere if server is None else _only(everywhere, fleet, server)
    chosen = spread_evenly(len(index), windows)
    whose, origins = index.lookup(chosen)
    present = np.unique(whose)
    sums = _Sums(schema, len(present))
    device = forecaster.quantiles.device
    store = WindowStore(fleet, schema, device, forecaster.facts.servers)
    draw = np.random.default_rng(SEED)
    parts = np.array_split(np.arange(len(chosen)), -(-len(chosen) // BATCH_SIZE))
    for number, part in enumerate(parts):
        batch = store.gather(whose[part], origins[part])
        slots = np.searchsorted(present, whose[part])
        _read(forecaster, batch, slots, sums)
        for shuffle in range(SHUFFLES):
            donors = store.gather(*_draw_donors(everywhere, store, len(part), draw))
            _shuffle(forecaster, batch, donors, slots, sums.changes, sums.changed[shuffle])
            if progress is not None:
                progress((number * SHUFFLES + shuffle + 1) / (len(parts) * SHUFFLES))
    readings = tuple(
        sums.reading(fleet.servers[who], np.array([slot])) for slot, who in enumerate(present)
    )
    return Explanation(
        run=run_name,
        data=data_name,
        first_origin=iso_time(int(origins.min()), schema),
        last_origin=iso_time(int(origins.max()), schema),
        schema=schema,
        shuffles=SHUFFLES,
        whole=sums.reading(server, np.arange(len(present))),
        servers=readings,
        by_step=_ratio(*sums.by_step),
    )


@torch.no_grad()
def _read(forecaster: Forecaster, batch: WindowBatch, slots: IntArray, sums: "_Sums") -> None:
    """Add windows [B] as they are: weights, attention and loss."""
    inputs, scale = forecaster.encode(batch)
    output = forecaster.network(inputs, return_weights=True)
    sums.add_weights(slots, inputs, output)
    target = forecaster.normaliser.normalise(batch.future, scale)
    sums.add_loss(slots, *_window_loss(forecaster, output.quantiles, target))


@torch.no_grad()
def _shuffle(
    forecaster: Forecaster,
    batch: WindowBatch,
    donors: WindowBatch,
    slots: IntArray,
    changes: list[Change],
    losses: FloatArray,
) -> None:
    """Add to `losses` [C, S, M] what windows [B] cost with every change, from as many donors."""
    inputs, scale = forecaster.encode(batch)
    target = forecaster.normaliser.normalise(batch.future, scale)
    others = forecaster.encode(donors).inputs
    for number, change in enumerate(changes):
        forecast = forecaster.network(_swapped(inputs, others, change)).quantiles
        np.add.at(losses[number], slots, _window_loss(forecaster, forecast, target)[0])


def _window_loss(
    forecaster: Forecaster, forecast: Tensor, target: Tensor
) -> tuple[FloatArray, FloatArray]:
    """Return each window's own `LossSum`: total and observed ticks, both [B, M] float64."""
    each = torch.vmap(forecaster.loss)(forecast.unsqueeze(1), target.unsqueeze(1))
    return each.total.double().cpu().numpy(), each.observed.double().cpu().numpy()


def _draw_donors(
    index: WindowIndex, store: WindowStore, count: int, draw: np.random.Generator
) -> tuple[IntArray, IntArray]:
    """Draw server and origin of windows to take values from, of more candidates the longest.

    A whole context serves a window of any history; a short one would bring its padding along, and
    ticks without a value would be taken for the variable's worth.
    """
    server, origin = index.lookup(draw.integers(len(index), size=DRAWN * count))
    history = np.minimum(origin - store.first_tick[server], store.schema.context_length)
    longest = np.argsort(-history, kind="stable")[:count]
    return server[longest], origin[longest]


def _swapped(inputs: TFTInputs, donors: TFTInputs, change: Change) -> TFTInputs:
    """Return the inputs with a change's variables taken from the donors, gaps and all."""
    if change.group == "past":
        past = _mix(inputs.past, donors.past, change.columns, 2)
        kinds = [kind for kind in range(len(NAIVE_FORECASTS)) if kind not in BEFORE]
        return _mix_naive(inputs, donors, change.columns, kinds)._replace(past=past)
    if change.group == "future":
        assert inputs.naive is not None
        known = inputs.future.shape[2] - inputs.naive.shape[2]  # then the targets' hours before
        hours = tuple(column - known for column in change.columns)
        future = _mix(inputs.future, donors.future, change.columns, 2)
        return _mix_naive(inputs, donors, hours, BEFORE)._replace(future=future)
    reals = inputs.static_reals.shape[1]  # static variables are reals first, then codes
    real = tuple(column for column in change.columns if column < reals)
    code = tuple(column - reals for column in change.columns if column >= reals)
    return inputs._replace(
        static_reals=_mix(inputs.static_reals, donors.static_reals, real, 1),
        static_codes=_mix(inputs.static_codes, donors.static_codes, code, 1),
    )


def _mix_naive(
    inputs: TFTInputs, donors: TFTInputs, columns: tuple[int, ...], kinds: list[int]
) -> TFTInputs:
    """Return inputs with some naive forecasts from the donors, for those columns that are targets.

    How much of the month they rest on comes with them.
    """
    assert inputs.naive is not None and donors.naive is not None
    assert inputs.naive_seen is not None and donors.naive_seen is not None
    targets = [column for column in columns if 0 <= column < inputs.naive.shape[2]]
    naive, seen = inputs.naive.clone(), inputs.naive_seen.clone()
    for kind in kinds:
        naive[:, :, targets, kind] = donors.naive[:, :, targets, kind]
        seen[:, targets, kind] = donors.naive_seen[:, targets, kind]
    return inputs._replace(naive=naive, naive_seen=seen)


def _mix(own: Tensor, other: Tensor, columns: tuple[int, ...], dim: int) -> Tensor:
    """Return `own` with some columns along `dim` from `other`."""
    chosen = torch.tensor(columns, dtype=torch.int64, device=own.device)
    return own.index_copy(dim, chosen, other.index_select(dim, chosen))


class _Sums:
    """What windows leave behind, by server."""

    def __init__(self, schema: FeatureSchema, servers: int) -> None:
        T, H, M = schema.context_length, schema.prediction_horizon, len(schema.targets)
        self.names = variable_names(schema)
        self.targets = schema.target_names
        groups = {group: tuple(range(len(names))) for group, names in self.names.items()}
        singles = [Change(group, (v,)) for group, columns in groups.items() for v in columns]
        self.changes = [*singles, *(Change(*pair) for pair in groups.items())]
        self.slots: list[IntArray] = []
        self.rows: list[FloatArray] = []  # [B, V + 1] weights and attention on history, by window
        self.loss = np.zeros((2, servers, M))  # total, observed
        self.changed = np.zeros((SHUFFLES, len(self.changes), servers, M))
        self.by_lag = np.zeros((2, servers, T + H))  # sum of attention, pairs that could look
        self.by_step = np.zeros((2, H, T + H))

    def add_loss(self, slots: IntArray, total: FloatArray, observed: FloatArray) -> None:
        """Add windows' losses [B, M]."""
        np.add.at(self.loss[0], slots, total)
        np.add.at(self.loss[1], slots, observed)

    def add_weights(self, slots: IntArray, inputs: TFTInputs, output: TFTOutput) -> None:
        """Add windows' selection weights and attention; ticks without a value do not count."""
        attention, even = output.attention, output.even  # [B, H, L]
        assert attention is not None and even is not None and inputs.past_seen is not None
        seen = inputs.past_seen  # [B, T]
        row = [selection_weights(seen, output), share_on_history(seen, attention)]
        self.slots.append(slots)
        self.rows.append(torch.cat(row, dim=1).float().cpu().numpy())
        relative = beside_even(attention, even)  # 1: as all that may be looked at
        steps = (relative, (even > 0).to(relative.dtype))  # sums, and counts
        for part, (by_step, by_lag) in enumerate(
            zip(steps, history_by_lag(attention, even), strict=True)
        ):
            self.by_step[part] += by_step.sum(0).double().cpu().numpy()
            np.add.at(self.by_lag[part], slots, by_lag.double().cpu().numpy())

    def reading(self, server: str | None, slots: IntArray) -> Reading:
        """Return what some servers' windows say together."""
        rows = np.concatenate(self.rows)[np.isin(np.concatenate(self.slots), slots)]
        weights = 100.0 * rows[:, :-1].astype(np.float64)
        low, high = np.quantile(weights, (LOW, HIGH), axis=0)
        mean = weights.mean(axis=0)
        names = [(group, name) for group, names in self.names.items() for name in names]
        variables = tuple(
            self._variable(group, name, Spread(mean[v], low[v], high[v]), v, slots)
            for v, (group, name) in enumerate(names)
        )
        whole = Spread(100.0, 100.0, 100.0)
        together = tuple(
            self._variable(group, f"all {group} variables", whole, len(names) + place, slots)
            for place, group in enumerate(self.names)
        )
        total, observed = self.loss[:, slots].sum(axis=(1, 2))
        return Reading(
            server=server,
            windows=len(rows),
            loss=float(total / observed),
            variables=variables,
            together=together,
            on_history=float(rows[:, -1].mean()),
            by_lag=_ratio(*self.by_lag[:, slots].sum(axis=1)),
        )

    def _variable(
        self, group: str, name: str, weight: Spread, change: int, slots: IntArray
    ) -> Variable:
        """Return a variable's weight beside what the loss grew by when it was shuffled."""
        before = self.loss[0, slots].sum(axis=0)  # [M]
        after = self.changed[:, change, slots].sum(axis=1)  # [R, M]
        grown = 100.0 * (_ratio(after.sum(axis=1), before.sum()) - 1.0)  # [R]
        by_target = 100.0 * (_ratio(after.mean(axis=0), before) - 1.0)
        return Variable(
            group=group,
            name=name,
            weight=Spread(*map(float, weight)),
            growth=Spread(float(grown.mean()), float(grown.min()), float(grown.max())),
            growth_by_target=dict(zip(self.targets, by_target.tolist(), strict=True)),
        )


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> FloatArray:
    """Divide, NaN where there is nothing to divide by."""
    whole = np.asarray(whole, dtype=np.float64)
    return np.asarray(part) / np.where(whole > 0, whole, np.nan)


def _only(index: WindowIndex, fleet: Fleet, server: str) -> WindowIndex:
    """Return one server's windows.

    Raises:
        ValueError: the table has no such server, or it has no window.
    """
    if server not in fleet.servers:
        near = difflib.get_close_matches(server, fleet.servers, n=1, cutoff=0.0)
        raise ValueError(f"no server {server!r} in the table; did you mean {near[0]!r}?")
    mine = index.server == fleet.servers.index(server)
    if not mine.any():
        raise ValueError(
            f"server {server!r} has no window to explain: none that was not trained on has both "
            "history and a known future; bring later data, or leave --server out"
        )
    counts = np.diff(index.ends, prepend=0)[mine]
    return WindowIndex(index.server[mine], index.first_origin[mine], np.cumsum(counts))
