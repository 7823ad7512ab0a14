"""The fleet in memory: every server's series once, on a regular grid of ticks.

Shapes: S servers, N ticks of all servers together, M metrics, R static reals.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Fleet:
    """Series of all servers, one after the other, in one array; NaN is a missing tick.

    A tick is a number, Unix seconds // step_seconds, and covers the step that starts there.
    Server s owns rows offsets[s] to offsets[s + 1]; the first of them is tick first_tick[s].
    """

    servers: tuple[str, ...]
    """Server names, sorted."""
    profiles: tuple[str | None, ...]
    """Each server's profile, None where the table has none."""
    metrics: tuple[str, ...]
    """Names of the columns of `values`."""
    static_names: tuple[str, ...]
    """Names of the columns of `static`."""
    values: FloatArray  # [N, M] in raw units, NaN where missing
    offsets: IntArray  # [S + 1]
    first_tick: IntArray  # [S]
    static: FloatArray  # [S, R], NaN where missing
    step_seconds: int

    def series(self, server: int) -> FloatArray:
        """Return one server's rows of `values`, [ticks, M], as a view."""
        return self.values[self.offsets[server] : self.offsets[server + 1]]

    @property
    def lengths(self) -> IntArray:
        """Ticks of each server from its first row to its last, gaps included, [S]."""
        return np.diff(self.offsets)

    @property
    def end_tick(self) -> int:
        """The first tick after every series."""
        return int((self.first_tick + self.lengths).max())
