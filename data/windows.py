"""Windows by index: which (server, origin) pairs there are, and how a batch of them is gathered.

Nothing is copied per window. The origins of a server that make valid windows are runs of ticks, so
a million windows are a few rows of (server, first origin, count).

B batch, T context, H horizon, M metrics, K known, R static reals, S servers.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data.calendar import weekly_table
from data.fleet import Fleet, IntArray
from tft.batch import WindowBatch
from tft.schema import UNKNOWN_CODE, FeatureSchema


@dataclass(frozen=True)
class WindowIndex:
    """Windows 0 to len - 1, ordered by server and origin (the first tick to forecast)."""

    server: IntArray  # [runs]
    first_origin: IntArray  # [runs] absolute ticks
    ends: IntArray  # [runs] cumulative number of windows

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def lookup(self, windows: IntArray) -> tuple[IntArray, IntArray]:
        """Return the server and origin of window numbers [B]."""
        run = np.searchsorted(self.ends, windows, side="right")
        start = self.ends[run] - np.diff(self.ends, prepend=0)[run]
        return self.server[run], self.first_origin[run] + windows - start


def index_windows(
    fleet: Fleet,
    schema: FeatureSchema,
    first_origin: int | None = None,
    end: int | None = None,
    servers: IntArray | None = None,
) -> WindowIndex:
    """List every window with enough history and something to forecast.

    Args:
        fleet: series.
        schema: lengths and targets.
        first_origin: earliest tick to forecast, absolute; None: as early as history allows.
        end: the tick after the last that may be forecast; None: the end of each series.
        servers: numbers of the servers to take; None: all.
    """
    rows = []
    for server in range(len(fleet.servers)) if servers is None else servers.tolist():
        offset, length = int(fleet.offsets[server]), int(fleet.lengths[server])
        first_tick = int(fleet.first_tick[server])
        low = first_tick + schema.min_context_length
        high = first_tick + length - schema.prediction_horizon
        if first_origin is not None:
            low = max(low, first_origin)
        if end is not None:
            high = min(high, end - schema.prediction_horizon)
        if low > high:
            continue
        values = fleet.values[offset : offset + length, : len(schema.targets)]
        valid = _has_past_and_future(values, low - first_tick, high - first_tick, schema)
        edges = np.flatnonzero(np.diff(valid.astype(np.int8), prepend=0, append=0))
        rows += [
            (server, low + begin, stop - begin) for begin, stop in edges.reshape(-1, 2).tolist()
        ]
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return WindowIndex(table[:, 0], table[:, 1], np.cumsum(table[:, 2]))


def _has_past_and_future(
    targets: np.ndarray, low: int, high: int, schema: FeatureSchema
) -> np.ndarray:
    """Tell for origins low..high of one series whether context and horizon saw any target."""
    seen = (~np.isnan(targets)).any(1)
    total = np.concatenate([[0], np.cumsum(seen)])
    origin = np.arange(low, high + 1)
    past = total[origin] - total[np.maximum(origin - schema.context_length, 0)]
    future = total[origin + schema.prediction_horizon] - total[origin]
    valid: np.ndarray = (past > 0) & (future > 0)
    return valid


class WindowStore:
    """A fleet's series on one device, from which batches of windows are gathered."""

    def __init__(
        self,
        fleet: Fleet,
        schema: FeatureSchema,
        device: torch.device | str = "cpu",
        known_servers: Collection[str] | None = None,
    ) -> None:
        """Put series on a device.

        Args:
            fleet: its metric columns must be the schema's, in order; shared, not copied, on a CPU.
            schema: lengths, codes.
            device: where batches are gathered.
            known_servers: servers trained on; any other gets the unknown code, not a stranger's
                bucket. None: all are known.

        Raises:
            ValueError: the fleet's columns or step are not the schema's.
        """
        if fleet.metrics != schema.metric_names or fleet.static_names != schema.static_reals:
            raise ValueError(
                f"the fleet has columns {fleet.metrics} and {fleet.static_names}, the schema needs "
                f"{schema.metric_names} and {schema.static_reals}; read it with the schema's roles"
            )
        if fleet.step_seconds != schema.step_seconds:
            raise ValueError(
                f"the fleet ticks every {fleet.step_seconds} s, the schema every "
                f"{schema.step_seconds} s"
            )
        self.schema, self.device = schema, torch.device(device)
        self.servers = fleet.servers
        self.values = torch.from_numpy(fleet.values).to(device)
        self.static = torch.from_numpy(fleet.static).to(device)
        known = set(fleet.servers if known_servers is None else known_servers)
        codes = [
            (
                schema.server_code(name) if name in known else UNKNOWN_CODE,
                schema.profile_code(profile),
            )
            for name, profile in zip(fleet.servers, fleet.profiles, strict=True)
        ]
        self.codes = torch.tensor(codes, dtype=torch.int64, device=device).view(-1, 2)
        self.calendar = weekly_table(schema.step_seconds).to(device)
        self.offsets, self.first_tick, self.lengths = fleet.offsets, fleet.first_tick, fleet.lengths

    def gather(self, server: IntArray, origin: IntArray) -> WindowBatch:
        """Gather windows.

        Args:
            server: [B] server numbers.
            origin: [B] absolute ticks, the first to forecast. The horizon may lie past the end of
                the series (its future is then NaN); at least one tick of history must exist.
        """
        T, H = self.schema.context_length, self.schema.prediction_horizon
        local = origin - self.first_tick[server]
        history = torch.from_numpy(np.minimum(local, T))
        if bool((history < 1).any()):
            raise ValueError("a window has no history: its origin is at or before its first tick")
        numbers = torch.from_numpy(
            np.stack([server, origin, local, self.offsets[server], self.lengths[server]])
        )
        who, when, position, offset, length = numbers.to(self.device).unsqueeze(-1)
        step = torch.arange(-T, H, device=self.device)  # [L]
        row = position + step  # [B, L], of each server's own series
        inside = (row >= 0) & (row < length)
        rows = offset + row.clamp(min=0).minimum(length - 1)
        window = self.values[rows].masked_fill(~inside.unsqueeze(-1), torch.nan)  # [B, L, M]
        who = who.squeeze(-1)
        return WindowBatch(
            past=window[:, :T],
            known=self.calendar[(when + step) % len(self.calendar)],
            static_reals=self.static[who],
            static_codes=self.codes[who],
            history_length=history,
            future=window[:, T:, : len(self.schema.targets)],
            earlier=self._earlier(server, local),
        )

    def _earlier(self, server: IntArray, local: IntArray) -> Tensor:
        """Return the ticks of the days before, [B, W, targets], NaN where unseen.

        Copied run by run: an index of all of them would be larger than what it fetches.

        Args:
            server: [B] server numbers.
            local: [B] ticks of its own series before each window's origin.
        """
        ticks, M = self.schema.earlier_ticks, len(self.schema.targets)
        earlier = self.values.new_full((len(server), ticks, M), torch.nan)
        begin, end = np.maximum(local - ticks, 0), np.minimum(local, self.lengths[server])
        for row, (offset, start, stop, at) in enumerate(
            zip(self.offsets[server], begin, end, begin - local + ticks, strict=True)
        ):
            if stop > start:
                run = self.values[offset + start : offset + stop, :M]
                earlier[row, at : at + stop - start] = run
        return earlier
