"""How far apart the rows of each server are, measured while a table is read once.

Shapes: n rows of a chunk.
"""

import numpy as np
import pandas as pd

from data.fleet import IntArray

LONGEST_GAP_SECONDS = 60 * 86_400  # a machine is away for weeks; further off, the time is wrong
SAMPLE_SERVERS = 16  # the first seen; every server of a table is as good for learning its step
FEWEST_SPACINGS = 10  # fewer say nothing about a table
RARE_NEIGHBOURS = 0.02  # share of rows one step after the last, in a table of another step
NEVER = np.iinfo(np.int64).max


class Spacing:
    """Rows of every server by periods as long as the longest gap allowed.

    No longer gap fits inside a period, so the first and last tick of each period in which a server
    has rows are enough to find it, whatever the order of the rows.
    """

    def __init__(self, step_seconds: int) -> None:
        self.step_seconds = step_seconds
        self.ticks_allowed = max(1, LONGEST_GAP_SECONDS // step_seconds)
        self.numbers: dict[tuple[int, int], int] = {}  # of (server, period), in the order seen
        self.first = np.zeros(0, np.int64)
        self.last = np.zeros(0, np.int64)
        self.sample: list[IntArray] = []  # keys of rows of the sample, see `_key`

    def add(self, servers: IntArray, ticks: IntArray) -> None:
        """Take in rows, [n]."""
        period = ticks // self.ticks_allowed
        inverse, keys = pd.factorize((servers << 32) + period)
        pairs = zip((keys >> 32).tolist(), (keys & 0xFFFFFFFF).tolist(), strict=True)
        numbers = np.array(
            [self.numbers.setdefault(pair, len(self.numbers)) for pair in pairs], np.int64
        )
        new = len(self.numbers) - len(self.first)
        self.first = np.append(self.first, np.full(new, NEVER))
        self.last = np.append(self.last, np.full(new, -NEVER))
        np.minimum.at(self.first, numbers[inverse], ticks)
        np.maximum.at(self.last, numbers[inverse], ticks)
        sampled = servers < SAMPLE_SERVERS
        if sampled.any():
            self.sample.append((servers[sampled] << 48) + ticks[sampled])

    def longest_gap(self) -> tuple[int, int, int] | None:
        """Return the server with the longest gap over 60 days, and the ticks on both its sides."""
        servers = np.array([server for server, _ in self.numbers], np.int64)
        order = np.lexsort((self.first, servers))
        servers, first, last = servers[order], self.first[order], self.last[order]
        gaps = np.where(servers[1:] == servers[:-1], first[1:] - last[:-1], 0)
        if not len(gaps) or gaps.max() <= self.ticks_allowed:
            return None
        index = int(gaps.argmax())
        return int(servers[index]), int(last[index]), int(first[index + 1])

    def seconds_apart(self) -> int | None:
        """Return how far apart the rows of a table are, None where it is one step, gaps aside.

        However many ticks are missing at random, some rows follow the one before within a step; in
        a table of a longer step none do.
        """
        keys = np.unique(np.concatenate([np.zeros(0, np.int64), *self.sample]))
        steps = np.diff(keys)[keys[1:] >> 48 == keys[:-1] >> 48]
        if len(steps) < FEWEST_SPACINGS or np.mean(steps == 1) >= RARE_NEIGHBOURS:
            return None
        return int(np.median(steps)) * self.step_seconds
