"""Rows as the state keeps them on disk, and how several of one server and tick become one.

The rule is that of `data.reading`: a tick holds the mean of the rows that fell into it. A service
is sent the same row again whenever an answer is lost, so rows are a set: one that is already held,
same server, time and values, changes nothing. Hence neither order nor repetition leaves a trace.
What a source is asked for again, on the other hand, replaces what it had answered.

n rows, M metrics.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from data.fleet import BoolArray, FloatArray, IntArray
from data.reading.clean import to_ticks
from data.reading.grid import Grid

Rows = npt.NDArray[np.void]  # [n] of `row_type`, little-endian on every machine

BLOCK = 128  # servers whose rows of a tick are kept as one
_SERVERS = 1 << 31  # numbers there can be
MOST_A_TICK = 64  # different rows of one server in one tick, so that no sender fills the disk


def row_type(num_metrics: int) -> np.dtype[np.void]:
    """Return the layout of a row: server number, Unix milliseconds, cells with NaN as missing."""
    return np.dtype([("server", "<i4"), ("milliseconds", "<i8"), ("cells", "<f4", (num_metrics,))])


def make_rows(servers: IntArray, milliseconds: IntArray, cells: FloatArray) -> Rows:
    """Put columns, [n], [n] and [n, M], together; equal numbers become equal bytes."""
    rows = np.empty(len(servers), row_type(cells.shape[1]))
    rows["server"], rows["milliseconds"] = servers, milliseconds
    # 0 for -0, and of all NaNs one.
    rows["cells"] = np.where(np.isnan(cells), np.float32(np.nan), cells + np.float32(0))
    return rows


class Merged(NamedTuple):
    """Rows held and given, each once, by tick and server."""

    rows: Rows
    source: IntArray  # [n] where each stood among the given; negative: it was held before
    crowded: IntArray  # places of given rows left out, as their tick would have too many


def merge(held: Rows, given: Rows, step_seconds: int, replacing: bool = False) -> Merged:
    """Return each different row once, in an order that depends on nothing but the rows.

    Args:
        held: rows.
        given: rows to add.
        step_seconds: between ticks.
        replacing: where other rows of a server and time are given than held, only they count.
    """
    if not len(held) and _ascending(given, step_seconds):  # a whole table or tick, as a rule
        return Merged(given, np.arange(len(given)), np.zeros(0, np.int64))
    every = np.concatenate([held, given])
    words = every.view("<u4").reshape(len(every), every.dtype.itemsize // 4)
    ticks = to_ticks(every["milliseconds"], step_seconds)
    order = np.lexsort((*words.T[::-1], ticks))  # stable: of equal rows those held are first
    words = words[order]
    different = np.ones(len(every), bool)
    different[1:] = (words[1:] != words[:-1]).any(axis=1)
    last, order = order[np.append(different[1:], True)], order[different]
    if replacing:
        was, told = order < len(held), last >= len(held)
        times = np.cumsum(_changes(every["server"][order], every["milliseconds"][order])) - 1
        renewed = (np.bincount(times, told) > 0) & (np.bincount(times, was != told) > 0)
        order = np.where(renewed[times], last, order)[told | ~renewed[times]]
    slots = _slots(every[order], ticks[order])
    crowded = (np.bincount(slots)[slots] > MOST_A_TICK) & (order >= len(held))
    rows, source = every[order[~crowded]], order[~crowded] - len(held)
    return Merged(rows, source, order[crowded] - len(held))


def touched_blocks(rows: Rows, step_seconds: int) -> list[tuple[int, int]]:
    """Return the pairs of tick and block number that rows belong to, each once."""
    ticks, numbers = to_ticks(rows["milliseconds"], step_seconds), rows["server"] // BLOCK
    return [divmod(pair, _SERVERS) for pair in np.unique(ticks * _SERVERS + numbers).tolist()]


class Block(NamedTuple):
    """The rows of one tick and of servers number * BLOCK and up."""

    tick: int
    number: int
    rows: Rows


def blocks_of(rows: Rows, wanted: BoolArray, step_seconds: int) -> list[Block]:
    """Cut rows in the order of `merge` into the blocks that hold one of those wanted, [n]."""
    ticks, numbers = to_ticks(rows["milliseconds"], step_seconds), rows["server"] // BLOCK
    starts = np.flatnonzero(_changes(ticks, numbers))
    ends = np.append(starts[1:], len(rows))
    some = np.logical_or.reduceat(wanted, starts)
    return [
        Block(int(ticks[start]), int(numbers[start]), rows[start:end])
        for start, end in zip(starts[some].tolist(), ends[some].tolist(), strict=True)
    ]


class Means(NamedTuple):
    """What ticks hold."""

    servers: IntArray  # [n] numbers
    ticks: IntArray  # [n]
    cells: FloatArray  # [n, M]


def tick_means(rows: Rows, step_seconds: int) -> Means:
    """Return the mean of each server's tick, of rows in the order of `merge`."""
    ticks = to_ticks(rows["milliseconds"], step_seconds)
    slots = _slots(rows, ticks)
    first = np.flatnonzero(np.diff(slots, prepend=-1))
    if len(first) == len(rows):
        return Means(rows["server"], ticks, rows["cells"])
    grid = Grid(np.zeros(1, np.int64), np.array([len(first)]), rows["cells"].shape[1])
    grid.add(slots, rows["cells"])
    grid.finish()
    return Means(rows["server"][first], ticks[first], grid.values)


def _ascending(rows: Rows, step_seconds: int) -> bool:
    """Tell whether every row is of a later tick, or a higher server, than the one before."""
    place = to_ticks(rows["milliseconds"], step_seconds) * _SERVERS + rows["server"]
    return bool((place[1:] > place[:-1]).all())


def _slots(rows: Rows, ticks: IntArray) -> IntArray:
    """Number the different pairs of tick and server of sorted rows from 0, [n]."""
    return np.cumsum(_changes(ticks, rows["server"])) - 1


def _changes(*columns: IntArray) -> BoolArray:
    """Tell where any of the columns differs from the row before, [n]; the first row does."""
    changes = np.ones(len(columns[0]), bool)
    changes[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return changes
