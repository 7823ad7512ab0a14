"""Small tables, for the tests that read them."""

from pathlib import Path

import numpy as np
import pandas as pd

from data.fleet import Fleet
from data.reading.roles import TableSpec
from data.reading.table import ReadResult, read_fleet

SPEC = TableSpec(targets=("load",))
MIDNIGHT = 1_704_067_200  # 2024-01-01T00:00:00Z


def read(folder: Path, text: str, spec: TableSpec = SPEC, **options) -> ReadResult:
    """Read a table written as CSV text."""
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return read_fleet(path, spec, **options)


def rows(*lines: str, header: str = "timestamp,server_name,load") -> str:
    """Return CSV text."""
    return "\n".join([header, *lines]) + "\n"


def at(minutes: float) -> str:
    """Return the time some minutes into 2024."""
    return str(pd.Timestamp(MIDNIGHT + 60 * minutes, unit="s", tz="UTC").isoformat())


def series(result: ReadResult, server: str = "a") -> list:
    """Return one server's values of the first metric, None where missing."""
    values = result.fleet.series(result.fleet.servers.index(server))[:, 0]
    return [None if np.isnan(value) else float(value) for value in values]


def same(one: Fleet, other: Fleet) -> None:
    """Refuse two fleets that differ in anything."""
    for name in ("servers", "profiles", "metrics", "static_names", "step_seconds"):
        assert getattr(one, name) == getattr(other, name)
    for name in ("values", "offsets", "first_tick", "static"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), strict=True)


def table(servers: int = 3, ticks: int = 6) -> pd.DataFrame:
    """Return a clean table; every number is exact in float32, whatever order it is summed in."""
    minutes = np.tile(np.arange(ticks) * 5, servers)
    codes = np.repeat(np.arange(servers), ticks)
    return pd.DataFrame(
        {
            "timestamp": pd.to_datetime(MIDNIGHT + 60 * minutes, unit="s", utc=True),
            "server_name": [f"srv{code}" for code in codes],
            "profile": ["web" if code % 2 else "db" for code in codes],
            "load": (np.arange(len(codes)) * 0.25 + codes).astype(np.float32),
            "queue": (np.arange(len(codes)) % 4).astype(np.float32),
            "cores": 2 ** (codes + 1),
            "note": "fine",
        }
    )


def many(cells: list, header: str) -> str:
    """Return CSV text of one server with one value per tick."""
    lines = [f"{at(5 * index)},a,{cell}" for index, cell in enumerate(cells)]
    return rows(*lines, header=f"timestamp,server_name,{header}")
