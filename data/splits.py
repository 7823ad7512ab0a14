"""Splits by time, so that no target tick of validation is seen in training."""

from typing import NamedTuple

import numpy as np
import torch

from data.fleet import Fleet, IntArray
from data.windows import WindowIndex, index_windows
from tft.schema import FeatureSchema


class Split(NamedTuple):
    """Windows to train on and windows to validate on."""

    train: WindowIndex
    validation: WindowIndex
    cutoff: int  # absolute tick: training targets lie before it, validation targets from it on


def split_by_time(fleet: Fleet, schema: FeatureSchema, validation_split: float) -> Split:
    """Cut the table's time span; the last part validates.

    Validation keeps at least one horizon, so a single day of data can be split too. Its contexts
    reach back before the cutoff: that is history, known when the forecast is made.

    Args:
        fleet: series.
        schema: lengths.
        validation_split: share of the time span, between 0 and 1.

    Raises:
        ValueError: either part has no window.
    """
    begin, end = int(fleet.first_tick.min()), fleet.end_tick
    share = round((end - begin) * validation_split)
    cutoff = end - max(share, schema.prediction_horizon)
    split = Split(
        index_windows(fleet, schema, end=cutoff),
        index_windows(fleet, schema, first_origin=cutoff),
        cutoff,
    )
    for part, index in (("training", split.train), ("validation", split.validation)):
        if len(index) == 0:
            need = schema.min_context_length + 2 * schema.prediction_horizon
            raise ValueError(
                f"no {part} window in {end - begin} ticks of {len(fleet.servers)} servers: "
                f"min_context_length {schema.min_context_length} + 2 x prediction_horizon "
                f"{schema.prediction_horizon} = {need} ticks are needed; bring more data or lower "
                "min_context_length or prediction_horizon"
            )
    return split


def training_stretches(fleet: Fleet, cutoff: int, ticks: int, most: int = 20_000) -> torch.Tensor:
    """Cut the rows before `cutoff` into stretches for statistics, [K, ticks, M], NaN for missing.

    At most `most` stretches, evenly spaced, so that statistics of a huge fleet stay cheap.
    """
    ends = (cutoff - fleet.first_tick).clip(0, fleet.lengths)  # [S] rows that may be looked at
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
