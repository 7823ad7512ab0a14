"""Splits by time and by server: no target tick of validation is seen in training."""

import difflib
from typing import NamedTuple

import numpy as np
import torch

from data.fleet import BoolArray, Fleet, IntArray
from data.windows import WindowIndex, index_windows
from tft.schema import FeatureSchema


class Split(NamedTuple):
    """Windows to train on and windows to validate on."""

    train: WindowIndex
    validation: WindowIndex
    cutoff: int  # absolute tick: training targets lie before it, validation targets from it on
    end: int  # tick after the last validation target
    trained: BoolArray  # [S] servers that are trained on


def split_by_time(
    fleet: Fleet, schema: FeatureSchema, validation_split: float, held_out: tuple[str, ...] = ()
) -> Split:
    """Cut the table's time span; the last part validates.

    Validation keeps at least one horizon, so a single day of data can be split too. Its contexts
    reach back before the cutoff: that is history, known when the forecast is made.

    Args:
        fleet: series.
        schema: lengths.
        validation_split: share of the time span, between 0 and 1.
        held_out: servers that validate beside the others but are not trained on.

    Raises:
        ValueError: either part has no window, or a server held out is not there.
    """
    begin, end = int(fleet.first_tick.min()), fleet.end_tick
    share = round((end - begin) * validation_split)
    return _split_at(fleet, schema, end - max(share, schema.prediction_horizon), end, held_out)


def split_fold(
    fleet: Fleet, schema: FeatureSchema, fold: int, folds: int, held_out: tuple[str, ...] = ()
) -> Split:
    """Cut the time span into folds + 1 equal parts; one validates, all before it train.

    Args:
        fleet: series.
        schema: lengths.
        fold: from 1 to `folds`; part `fold` + 1 validates (rolling origin).
        folds: number of folds.
        held_out: servers that validate beside the others but are not trained on.

    Raises:
        ValueError: either part has no window, or a server held out is not there.
    """
    begin, end = int(fleet.first_tick.min()), fleet.end_tick
    cutoff, stop = (begin + (end - begin) * part // (folds + 1) for part in (fold, fold + 1))
    return _split_at(fleet, schema, cutoff, stop, held_out)


def _split_at(
    fleet: Fleet, schema: FeatureSchema, cutoff: int, end: int, held_out: tuple[str, ...]
) -> Split:
    for name in held_out:
        if name not in fleet.servers:
            near = difflib.get_close_matches(name, fleet.servers, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {len(fleet.servers)} others"
            raise ValueError(f"validation_servers: no server {name!r} in the table; {hint}")
    known = np.array([name not in held_out for name in fleet.servers])
    trained = known & (fleet.first_tick < cutoff)
    train = index_windows(fleet, schema, end=cutoff, servers=np.flatnonzero(trained))
    trained[:] = False  # of those that may be, the ones with a window to train on
    trained[train.server] = True
    split = Split(
        train,
        index_windows(fleet, schema, first_origin=cutoff, end=end),
        cutoff,
        end,
        trained,
    )
    for part, index in (("training", split.train), ("validation", split.validation)):
        if len(index) == 0:
            need = schema.min_context_length + 2 * schema.prediction_horizon
            begin = int(fleet.first_tick.min())
            raise ValueError(
                f"no {part} window in {end - begin} ticks of {len(fleet.servers)} servers"
                f"{f', {len(held_out)} of them held out' if held_out else ''}: "
                f"min_context_length {schema.min_context_length} + 2 x prediction_horizon "
                f"{schema.prediction_horizon} = {need} ticks are needed; bring more data or lower "
                "min_context_length or prediction_horizon"
            )
    return split


def training_stretches(fleet: Fleet, split: Split, ticks: int, most: int = 20_000) -> torch.Tensor:
    """Cut the rows trained on into stretches for statistics, [K, ticks, M], NaN for missing.

    At most `most` stretches, evenly spaced, so that statistics of a huge fleet stay cheap.
    """
    before = (split.cutoff - fleet.first_tick).clip(0, fleet.lengths)
    ends = np.where(split.trained, before, 0)  # [S] rows that may be looked at
    per_server = -(-ends // ticks)
    stops = per_server.cumsum()
    number = spread_evenly(int(stops[-1]), most)
    server = np.searchsorted(stops, number, side="right")
    begin = (number - (stops - per_server)[server]) * ticks
    row = begin[:, None] + np.arange(ticks)
    inside = row < ends[server, None]
    stretches = fleet.values[np.where(inside, fleet.offsets[server, None] + row, 0)]
    stretches[~inside] = np.nan
    return torch.from_numpy(stretches)


def spread_evenly(total: int, most: int | None) -> IntArray:
    """Return at most `most` window numbers out of `total`, evenly spaced; all for None."""
    if most is None or most >= total:
        return np.arange(total)
    return (np.arange(most) * total) // most
