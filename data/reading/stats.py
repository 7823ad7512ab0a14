"""What a column of numbers holds, gathered chunk by chunk without keeping its rows.

Shapes: n rows, S servers.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from data.fleet import IntArray
from data.reading.clean import EXPECTED_NUMBER, Rejections, read_cells
from data.reading.files import Chunk

FloatingArray = npt.NDArray[np.floating]

# Different values counted per server. Even a memory size, a property of a server, shows up to 14 in
# two months of the Bitbrains machines, where the hypervisor borrowed some of it for a while.
SLOTS = 32


class MostCommon:
    """Each server's most common value in a column that rarely changes.

    Up to 32 different values per server are counted exactly; one more marks the server as
    crowded. Neither depends on the order of the rows.
    """

    def __init__(self) -> None:
        self.values = np.full((0, SLOTS), np.nan)  # [S, SLOTS]
        self.counts = np.zeros((0, SLOTS), np.int64)  # [S, SLOTS]
        self.crowded = np.zeros(0, bool)  # [S]

    def add(self, servers: IntArray, values: FloatingArray, num_servers: int) -> None:
        """Count values, [n], of servers, [n]; NaN is none."""
        self._resize(num_servers)
        counted = ~(np.isnan(values) | self.crowded[servers])
        # Each (server, value) of the chunk once; adding 0 makes -0.0 and 0.0 one value.
        bits = (values[counted].astype(np.float32) + np.float32(0)).view(np.uint32)
        inverse, pairs = pd.factorize((servers[counted] << 32) + bits)
        counts = np.bincount(inverse, minlength=len(pairs))
        servers, values = pairs >> 32, (pairs & 0xFFFFFFFF).astype(np.uint32).view(np.float32)
        self.crowded[np.bincount(servers, minlength=num_servers) > SLOTS] = True
        left = ~self.crowded[servers]
        servers, values, counts = servers[left], values[left], counts[left]
        for slot in range(SLOTS):
            if not len(servers):
                return
            free = np.isnan(self.values[servers, slot])
            self.values[servers[free], slot] = values[free]
            held = self.values[servers, slot] == values
            self.counts[servers[held], slot] += counts[held]
            servers, values, counts = servers[~held], values[~held], counts[~held]
        self.crowded[servers] = True

    def modes(self, names: IntArray | None = None) -> tuple[npt.NDArray[np.float64], IntArray]:
        """Return each server's most common value, [S], and how often it was there, [S].

        The smallest of equally common values counts; NaN where there is none or too many.

        Args:
            names: other numbers to put for the values 0, 1, 2 and so on.
        """
        values = self.values
        if names is not None:
            values = np.where(np.isnan(values), np.nan, names[np.nan_to_num(values).astype(int)])
        most = np.where(self.crowded, 0, self.counts.max(axis=1, initial=0))
        common = (self.counts == most[:, None]) & (most[:, None] > 0)
        values = np.where(common, values, np.inf).min(axis=1)
        return np.where(np.isfinite(values), values, np.nan), most

    def _resize(self, num_servers: int) -> None:
        more = num_servers - len(self.crowded)
        if more > 0:
            self.values = np.pad(self.values, ((0, more), (0, 0)), constant_values=np.nan)
            self.counts = np.pad(self.counts, ((0, more), (0, 0)))
            self.crowded = np.pad(self.crowded, (0, more))


@dataclass
class ColumnStats:
    """One column of numbers as it was found, before bounds are applied."""

    values: int = 0
    low: float = math.inf
    high: float = -math.inf
    negative: int = 0
    above_100: int = 0
    infinite: int = 0
    rejections: Rejections = field(default_factory=Rejections)
    most_common: MostCommon = field(default_factory=MostCommon)

    @property
    def constant(self) -> bool:
        """Whether the column never changes."""
        return self.low == self.high

    @property
    def numeric(self) -> bool:
        """Whether the column is one of numbers: it holds some, and at least as many as words."""
        return 0 < self.values >= self.rejections.count

    def add(
        self, chunk: Chunk, name: str, rows: IntArray, servers: IntArray, num_servers: int
    ) -> None:
        """Take in rows, [n], of a chunk, which belong to servers, [n]."""
        cells = read_cells(chunk, name, rows)
        self.rejections.add(chunk, name, cells.rejected, EXPECTED_NUMBER)
        self.infinite += cells.infinite
        self.most_common.add(servers, cells.values, num_servers)
        known = cells.values[~np.isnan(cells.values)]
        if len(known):
            self.values += len(known)
            self.low = min(self.low, float(known.min()))
            self.high = max(self.high, float(known.max()))
            self.negative += int(np.count_nonzero(known < 0))
            self.above_100 += int(np.count_nonzero(known > 100))
