"""The last ticks of every server in memory, on a grid that moves on with the newest of them.

S servers by number, W ticks kept, M metrics, n cells.
"""

import numpy as np

from data.fleet import BoolArray, FloatArray, IntArray
from serve.rows import BLOCK

NEVER = -(1 << 62)  # far from any tick, and from the end of 64 bits


class Ring:
    """Ticks newest - W + 1 to newest; a tick's place is its number modulo W.

    Memory comes in blocks of servers, so that a fleet that grows is never copied.
    """

    def __init__(self, length: int, num_metrics: int) -> None:
        """Start without a server; W and M are given."""
        self.length, self.num_metrics = length, num_metrics
        self.newest: int | None = None
        self._blocks: list[FloatArray] = []  # [BLOCK, W, M] each, NaN where missing
        self.first = np.zeros(0, np.int64)  # [S] first tick with a value, or `last` if none has one
        self.last = np.zeros(0, np.int64)  # [S] last tick with a row; NEVER: no row is held

    @property
    def oldest(self) -> int:
        """The first tick kept."""
        assert self.newest is not None
        return self.newest - self.length + 1

    @property
    def num_bytes(self) -> int:
        """Memory taken."""
        return sum(block.nbytes for block in self._blocks) + self.first.nbytes + self.last.nbytes

    def reserve(self, num_servers: int) -> None:
        """Make room for servers 0 to num_servers - 1."""
        while len(self.last) < num_servers:
            shape = (BLOCK, self.length, self.num_metrics)
            self._blocks.append(np.full(shape, np.nan, np.float32))
            self.first = np.append(self.first, np.full(BLOCK, NEVER))
            self.last = np.append(self.last, np.full(BLOCK, NEVER))

    def outlived(self, newest: int) -> IntArray:
        """Return the numbers of servers that will have no row left when `newest` is the newest."""
        return np.flatnonzero((self.last != NEVER) & (self.last <= newest - self.length))

    def advance(self, newest: int) -> None:
        """Move on to a newest tick; what lies W ticks before it and earlier is forgotten."""
        if self.newest is None:
            self.newest = newest
        if newest == self.newest:
            return
        gone = self.outlived(newest)
        places = np.arange(max(self.newest + 1, newest - self.length + 1), newest + 1) % self.length
        for block in self._blocks:
            block[:, places] = np.nan
        self.newest = newest
        self.first[gone] = self.last[gone] = NEVER
        behind = np.flatnonzero((self.last != NEVER) & (self.first < self.oldest))
        self.first[behind] = self.oldest
        self._skip_missing(behind)

    def put(self, servers: IntArray, ticks: IntArray, cells: FloatArray) -> None:
        """Put cells, [n, M], of ticks that are kept, in place of what was there."""
        for block, members in self._by_block(servers):
            within, places = servers[members] % BLOCK, ticks[members] % self.length
            self._blocks[block][within, places] = cells[members]
        new = np.unique(servers)
        new = new[self.last[new] == NEVER]
        self.first[new] = -NEVER
        np.minimum.at(self.first, servers, ticks)
        np.maximum.at(self.last, servers, ticks)
        self._skip_missing(np.unique(servers))

    def empty(self, servers: IntArray, ticks: IntArray) -> BoolArray:
        """Tell for pairs of server and tick, which is kept, whether every cell is missing, [n]."""
        missing = np.empty(len(servers), bool)
        for block, members in self._by_block(servers):
            within, places = servers[members] % BLOCK, ticks[members] % self.length
            missing[members] = np.isnan(self._blocks[block][within, places]).all(axis=1)
        return missing

    def copy(self, server: int, out: FloatArray) -> None:
        """Copy one server's ticks, first to last, into `out`, [ticks, M]."""
        series = self._blocks[server // BLOCK][server % BLOCK]
        start = int(self.first[server]) % self.length
        head = min(self.length - start, len(out))
        out[:head] = series[start : start + head]
        out[head:] = series[: len(out) - head]

    def _skip_missing(self, servers: IntArray) -> None:
        """Move first ticks on to the first that holds a value: a gap there is no history."""
        servers = servers[self.first[servers] < self.last[servers]]
        while len(servers):
            servers = servers[self.empty(servers, self.first[servers])]
            self.first[servers] += 1
            servers = servers[self.first[servers] < self.last[servers]]

    def _by_block(self, servers: IntArray) -> list[tuple[int, IntArray]]:
        """Return each block there is a server of, and the places of its servers, [n] in all."""
        blocks = (servers // BLOCK).astype(np.uint16)
        order = np.argsort(blocks, kind="stable")  # 16 bits are sorted in linear time
        found, counts = np.unique(blocks[order], return_counts=True)
        ends = np.cumsum(counts)
        return [
            (block, order[end - size : end])
            for block, size, end in zip(found.tolist(), counts.tolist(), ends.tolist(), strict=True)
        ]
