"""The second pass over a table: every value into its place on the grid of ticks.

Shapes: n rows of a chunk, S servers, N ticks of all servers together, M metrics.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from data.fleet import BoolArray, FloatArray, IntArray
from data.reading.clean import EXPECTED_NUMBER, Rejections, read_cells
from data.reading.files import Chunk
from tft.schema import Metric

MAX_MERGED = np.iinfo(np.uint16).max
BLOCK = 1 << 18  # ticks worked on at a time, so that finishing needs no second copy
HOUR = 3_600


class Grid:
    """Values being gathered. Several of one metric and tick are summed, and divided at the end."""

    def __init__(self, first_tick: IntArray, lengths: IntArray, num_metrics: int) -> None:
        self.first_tick = first_tick  # [S]
        self.offsets = np.concatenate([[0], np.cumsum(lengths)])  # [S + 1]
        num_ticks = int(self.offsets[-1])
        self.values = np.full((num_ticks, num_metrics), np.nan, np.float32)  # [N, M]
        self.present = np.zeros(num_ticks, bool)  # [N] whether a row fell into the tick
        self.merged = 0
        # Summands of each cell, where there are two or more. Made when the first two meet:
        # most tables never need it.
        self.summands: np.ndarray | None = None  # [N, M] uint16

    def rows_of(self, servers: IntArray, ticks: IntArray) -> IntArray:
        """Return the grid rows, [n], of ticks of servers.

        Raises:
            ValueError: a tick outside the server's span, which the first pass saw whole.
        """
        rows = self.offsets[servers] + ticks - self.first_tick[servers]
        if np.any((ticks < self.first_tick[servers]) | (rows >= self.offsets[servers + 1])):
            raise ValueError("the table changed while it was being read; read a finished copy")
        return rows

    def add(self, rows: IntArray, cells: FloatArray) -> None:
        """Put cells, [n, M], into grid rows, [n]."""
        if not len(rows):
            return
        ascending = np.sort(rows)
        repeated = bool(np.any(ascending[1:] == ascending[:-1]))
        if repeated or bool(self.present[rows].any()):
            self._merge(rows, cells)
        else:
            self.values[rows] = cells
            self.present[rows] = True

    def finish(self) -> None:
        """Turn sums into means."""
        if self.summands is None:
            return
        for start in range(0, len(self.values), BLOCK):
            block = slice(start, start + BLOCK)
            self.values[block] /= np.maximum(self.summands[block], 1)
        self.summands = None

    def _merge(self, rows: IntArray, cells: FloatArray) -> None:
        if self.summands is None:
            self.summands = np.zeros(self.values.shape, np.uint16)
        order = np.argsort(rows, kind="stable")
        rows, starts = np.unique(rows[order], return_index=True)
        cells = cells[order]
        known = ~np.isnan(cells)
        # In float64, so that the order of the rows leaves no trace in the mean.
        added = np.add.reduceat(np.where(known, cells, 0.0).astype(np.float64), starts)
        counts = np.add.reduceat(known, starts, dtype=np.int64)
        before = self.values[rows]
        held = ~np.isnan(before)
        sums = np.where(held, before, 0.0) + added
        counts += np.where(held, np.maximum(self.summands[rows], 1), 0)
        if counts.max() > MAX_MERGED:
            raise ValueError(
                f"over {MAX_MERGED:,} rows of one server fall into one tick; "
                "step_seconds is too long, or the times are not seconds or milliseconds"
            )
        self.merged += len(order) - len(rows) + int(self.present[rows].sum())
        self.values[rows] = np.where(counts > 0, sums, np.nan)
        self.summands[rows] = counts
        self.present[rows] = True


@dataclass
class Cleaner:
    """Bring the metrics of chunks within their bounds, and count what that took."""

    metrics: Sequence[Metric]
    rejections: Rejections = field(default_factory=Rejections)
    infinite: int = 0
    clipped: Counter[str] = field(default_factory=Counter)
    below: Counter[str] = field(default_factory=Counter)

    def cells(self, chunk: Chunk, rows: IntArray) -> FloatArray:
        """Return the metrics of some rows of a chunk, [n, M], NaN where missing."""
        cells = np.empty((len(rows), len(self.metrics)), np.float32)
        for index, metric in enumerate(self.metrics):
            numbers = read_cells(chunk, metric.name, rows)
            self.rejections.add(chunk, metric.name, numbers.rejected, EXPECTED_NUMBER)
            self.infinite += numbers.infinite
            values = numbers.values
            if metric.upper is not None:
                self.clipped[metric.name] += int(np.count_nonzero(values > metric.upper))
                values = np.minimum(values, np.float32(metric.upper))  # NaN stays NaN
            if metric.lower is not None:
                below = values < metric.lower
                self.below[metric.name] += int(np.count_nonzero(below))
                values = np.where(below, np.float32(np.nan), values)
            cells[:, index] = values
        return cells


@dataclass
class Gaps:
    """Ticks without a row between a server's first and last."""

    ticks: int = 0
    count: int = 0
    longest: int = 0
    over_an_hour: int = 0

    def add(self, present: BoolArray, step_seconds: int) -> None:
        """Take in one server's ticks; the first and the last of them have a row."""
        turns = np.flatnonzero(present[1:] != present[:-1])  # out of a row and back, by turns
        lengths = turns[1::2] - turns[::2]
        if len(lengths):
            self.ticks += int(lengths.sum())
            self.count += len(lengths)
            self.longest = max(self.longest, int(lengths.max()))
            self.over_an_hour += int(np.count_nonzero(lengths * step_seconds > HOUR))
