"""Rows as they are sent to the service, for the tests of its state."""

import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from serve.observations import Observation
from serve.state import FleetState, kept_ticks
from serve.store import Store
from tests.builders import SCHEMA

# Hourly ticks, of which two days are kept.
SMALL = replace(SCHEMA, context_length=24, days_before=1)
STEP = SMALL.step_seconds
KEPT = kept_ticks(SMALL)
START = 480_000  # a tick of 2024
NOW = 4_000_000_000.0  # a clock that rejects none of them


def row(
    server: str = "a", tick: int = START, seconds: float = 0, cpu: Any = 1.0, **more: Any
) -> Observation:
    """Return a row of a tick, so many seconds after its start."""
    values = more.pop("values", {"cpu_percent": cpu, "load_average": 2.0})
    at = round((tick * STEP + seconds) * 1000)
    return Observation(server, at, more.pop("profile", None), values, more)


def state(folder: Path, **options: Any) -> FleetState:
    """Open a state whose clock shows no row to be of the future; unused, its file is closed."""
    store = Store(folder, SMALL)
    opened = FleetState(SMALL, store, lambda: NOW, **options)
    weakref.finalize(opened, store.close)
    return opened


def again(before: FleetState, folder: Path) -> FleetState:
    """Close a state and open what it left on disk."""
    before._store.close()
    return state(folder)


def cpu_of(state: FleetState, server: str = "a") -> list[float]:
    """Return one server's first metric, from its first tick to its last."""
    fleet = state.fleet([server])
    return fleet.values[:, 0].tolist() if fleet.servers else []


def equal(one: list[float], other: list[float]) -> bool:
    return bool(np.array_equal(one, other, equal_nan=True))


def reasons(fleet_state: FleetState, *rows: Observation) -> list[str]:
    """Return why rows were rejected, of which every one must be."""
    receipt = fleet_state.accept(rows)
    assert [each.index for each in receipt.rejected] == list(range(len(rows)))
    return [each.reason for each in receipt.rejected]


def ticks_of(fleet_state: FleetState, servers: Sequence[str]) -> list[tuple[int, int]]:
    """Return the first and the last tick of servers."""
    fleet = fleet_state.fleet(servers)
    return [(int(f), int(f + n - 1)) for f, n in zip(fleet.first_tick, fleet.lengths, strict=True)]
