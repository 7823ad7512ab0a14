"""The order of training windows: a pure function of seed, epoch and position.

One endless stream of windows, each pass through it a new shuffle of all of them; an epoch is a cut
of the stream. The shuffle is computed, not stored: a Feistel network (a permutation whatever its
round function) on numbers of 2k bits, walked until it falls below the number of windows. So 10,000
servers cost no memory, and any position can be asked for without the ones before it.
"""

import numpy as np
import numpy.typing as npt

from data.fleet import IntArray

ROUNDS = 6


class WindowOrder:
    """Endless shuffled passes over `total` windows, cut into epochs."""

    def __init__(self, total: int, seed: int, windows_per_epoch: int | None = None) -> None:
        """Define the stream.

        Args:
            total: number of windows, at least 1.
            seed: of the shuffles.
            windows_per_epoch: windows in an epoch; None: every window once.
        """
        if total < 1 or (windows_per_epoch is not None and windows_per_epoch < 1):
            raise ValueError(
                f"total {total} and windows_per_epoch {windows_per_epoch} must be at least 1"
            )
        self.total, self.seed = total, seed
        self.per_epoch = windows_per_epoch or total

    def windows(self, epoch: int, start: int, stop: int) -> IntArray:
        """Return the window numbers at positions start to stop - 1 of an epoch (from 0)."""
        stream = np.arange(start, min(stop, self.per_epoch)) + epoch * self.per_epoch
        passes, positions = np.divmod(stream, self.total)
        chosen = np.empty_like(stream)
        for number in np.unique(passes):
            here = passes == number
            chosen[here] = shuffle(positions[here], self.total, (self.seed, int(number)))
        return chosen


def shuffle(positions: IntArray, total: int, key: tuple[int, ...]) -> IntArray:
    """Map positions below `total` one to one to numbers below `total`, pseudo-randomly by `key`."""
    half = max(1, (int(total - 1).bit_length() + 1) // 2)
    keys = np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64).astype(np.uint64)
    out = positions.astype(np.uint64)
    todo = np.arange(len(out))
    while len(todo):
        out[todo] = _feistel(out[todo], half, keys)
        todo = todo[out[todo] >= total]
    return out.astype(np.int64)


def _feistel(
    numbers: npt.NDArray[np.uint64], half: int, keys: npt.NDArray[np.uint64]
) -> npt.NDArray[np.uint64]:
    """Permute numbers of 2 * half bits."""
    shift, mask = np.uint64(half), np.uint64((1 << half) - 1)
    left, right = numbers >> shift, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << shift) | right


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: npt.NDArray[np.uint64] = x ^ (x >> np.uint64(31))
    return mixed
