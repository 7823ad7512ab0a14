"""Which windows have seen too little: a short history, or one that is mostly gaps.

n windows: server numbers, and origins (absolute ticks, the first to forecast).
"""

import numpy as np

from data.fleet import BoolArray, Fleet, IntArray
from tft.schema import FeatureSchema


def is_cold_start(
    fleet: Fleet, server: IntArray, origin: IntArray, schema: FeatureSchema
) -> BoolArray:
    """Tell of each window whether its history is shorter than any trained on, or gaps, [n]."""
    short = origin - fleet.first_tick[server] < schema.min_context_length
    cold: BoolArray = short | (seen_ticks(fleet, server, origin, schema) < fewest_seen(schema))
    return cold


def fewest_seen(schema: FeatureSchema) -> int:
    """Return in how many ticks of a context a target must be seen, or it is a cold start.

    As many as the shortest history trained on has, but no more than half: gaps are nothing new.
    """
    return min(schema.min_context_length, schema.context_length // 2)


def seen_ticks(fleet: Fleet, server: IntArray, origin: IntArray, schema: FeatureSchema) -> IntArray:
    """Count for each window the ticks of its context in which a target was seen, [n]."""
    targets = fleet.values.T[: len(schema.targets)]  # one by one: `any` along short rows is slow
    seen = np.logical_or.reduce([~np.isnan(column) for column in targets])
    total = np.concatenate([[0], np.cumsum(seen)])
    row = origin - fleet.first_tick[server]
    begin, length = fleet.offsets[server], fleet.lengths[server]
    stop = begin + row.clip(0, length)
    start = begin + (row - schema.context_length).clip(0, length)
    count: IntArray = total[stop] - total[start]
    return count
