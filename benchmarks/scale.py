"""How reading and sampling grow with the fleet: `python -m benchmarks.scale`.

Each fleet is read from a folder of Parquet files of 100 servers, then windows are gathered from it
in the order of training, in a process of its own. Two goals: the memory of a large fleet is that of
its series and little more, and a window of it takes no longer than one of a small fleet.

Then training steps of growing batches and horizons, `benchmarks.growth`: linear growth is the goal.

Peak memory counts from just before reading, so without the libraries. In a small fleet most of it
is the chunk at work and what the libraries set up when first used, a cost that does not grow.

Shapes: n servers of a file, N ticks of each.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.growth import judge_growth, time_growth
from benchmarks.machine import ROOT, measured_on
from benchmarks.memory import forget_peak, peak_memory
from benchmarks.sizes import parse_sizes
from data.loaders import TrainLoader
from data.reading import read_fleet
from data.sampling import WindowOrder
from data.windows import WindowStore, index_windows
from report.console import ProgressLine
from tft.files import write_atomically
from tft.schema import FeatureSchema

MEMORY_GOAL = 1.3  # peak memory of the largest fleet, in bytes of its series
WINDOW_GOAL = 1.3  # time of a window of the largest fleet, in that of the smallest
BATCH, WINDOWS, REPEATS = 32, 10_000, 7
STEP_SECONDS, TICKS_PER_DAY = 300, 288
START = 1_767_571_200  # 2026-01-05T00:00:00Z, a Monday
SERVERS_PER_FILE = 100
METRICS = {  # highest value, step of the random walk from tick to tick, decimals
    "cpu_percent": (100.0, 3.0, 1),
    "memory_percent": (100.0, 0.5, 1),
    "disk_percent": (100.0, 0.1, 1),
    "load_average": (32.0, 0.5, 2),
}
HEADER = (
    "servers", "windows", "series MB", "load s", "rows/s", "peak MB", "peak/series", "index s",
    f"{WINDOWS:,} windows s", "fastest s",
)  # fmt: skip


@click.command()
@click.option(
    "--servers", "sizes", default="20,100,1000,10000", callback=parse_sizes, show_default=True
)
@click.option("--days", type=click.IntRange(2), default=30, show_default=True)
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path, file_okay=False),
    help="Keep the tables here, and use those that are; default: a folder removed at the end.",
)  # fmt: skip
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write the record.")
@click.option("--one", type=click.Path(path_type=Path, exists=True), hidden=True)
def scale(
    sizes: tuple[int, ...], days: int, folder: Path | None, record: Path | None, one: Path | None
) -> None:
    """Measure how memory and time grow with the number of servers."""
    if one is not None:
        click.echo(json.dumps(measure(one)))
        return
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
    with tempfile.TemporaryDirectory() as temporary:
        rows = [
            measure_apart(written_table(folder or Path(temporary), size, days)) for size in sizes
        ]
    with ProgressLine("training steps of growing batches and horizons"):
        growth = time_growth()
    goals = judge(rows) + judge_growth(growth)
    click.echo(as_text(rows, goals))
    for row in growth:
        click.echo(f"batch {row['batch']:>3}, horizon {row['horizon']:>3}: {row['step_ms']:.1f} ms")
    if record is not None:
        content = {
            "on": measured_on(),
            "days": days,
            "fleets": rows,
            "growth": growth,
            "goals": goals,
        }
        write_atomically(record, (json.dumps(content, indent=1) + "\n").encode())


def written_table(folder: Path, servers: int, days: int) -> Path:
    """Return the folder with a fleet's table, written unless it is there."""
    path = folder / f"servers-{servers}-days-{days}"
    if path.exists():
        return path
    unfinished = folder / f"{path.name}.unfinished"
    unfinished.mkdir(parents=True, exist_ok=True)
    with ProgressLine(f"writing {servers:,} servers") as progress:
        for first in range(0, servers, SERVERS_PER_FILE):
            stop = min(first + SERVERS_PER_FILE, servers)
            part = unfinished / f"part-{first // SERVERS_PER_FILE:05}.parquet"
            pq.write_table(draw_servers(range(first, stop), days * TICKS_PER_DAY), part)
            progress(stop / servers)
    return unfinished.rename(path)


def draw_servers(servers: range, ticks: int) -> pa.Table:
    """Draw the rows of some servers: random walks on a daily rhythm, folded into their range.

    Values are rounded as collectors write them: files pack well, and few values differ.
    """
    rng = np.random.default_rng(servers.start)
    n, tick = len(servers), np.arange(ticks)
    daily = np.sin(2 * np.pi * (tick / TICKS_PER_DAY + rng.random((n, 1))))  # [n, N]
    columns = {}
    for name, (highest, step, decimals) in METRICS.items():
        steps = rng.normal(0.0, step, (n, ticks))
        steps[:, 0] = rng.uniform(0.0, highest, n)
        walk = steps.cumsum(axis=1) + 0.15 * highest * daily
        folded = np.abs((walk + highest) % (2 * highest) - highest)
        columns[name] = folded.round(decimals).ravel()  # [n * N]
    seconds = START + STEP_SECONDS * tick
    names = pa.array([f"server-{server:05}" for server in servers])
    keys = {
        "timestamp": pa.array(np.tile(seconds, n) * 1_000, pa.timestamp("ms", "UTC")),
        "server_name": pa.DictionaryArray.from_arrays(np.repeat(np.arange(n), ticks), names),
    }
    return pa.table({**keys, **columns})


def measure_apart(folder: Path) -> dict[str, Any]:
    """Measure a fleet in a fresh process: no memory of another fleet is in its peak."""
    command = [sys.executable, "-m", "benchmarks.scale", "--one", str(folder.resolve())]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise click.ClickException(f"measuring {folder} failed, see above")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def measure(folder: Path) -> dict[str, Any]:
    """Read the fleet in a folder and gather windows from it."""
    before = forget_peak()
    started = time.perf_counter()
    with ProgressLine(f"reading {folder.name}") as progress:
        read = read_fleet(folder, progress=progress)
    load_seconds = time.perf_counter() - started

    fleet, schema = read.fleet, FeatureSchema(read.targets, read.observed)
    started = time.perf_counter()
    with ProgressLine("indexing windows"):
        index = index_windows(fleet, schema)
    index_seconds = time.perf_counter() - started

    order = WindowOrder(len(index), seed=0, windows_per_epoch=WINDOWS)
    gather_seconds = time_epochs(TrainLoader(WindowStore(fleet, schema), index, order, BATCH))
    return {
        "servers": len(fleet.servers),
        "ticks": len(fleet.values),
        "windows": len(index),
        "series_bytes": fleet.values.nbytes,
        "peak_bytes": peak_memory() - before,
        "load_seconds": load_seconds,
        "index_seconds": index_seconds,
        "gather_seconds": median(gather_seconds),
        "gather_seconds_each": gather_seconds,
    }


def time_epochs(loader: TrainLoader) -> list[float]:
    """Time epochs of 10,000 windows, each of other windows."""
    seconds = []
    with ProgressLine("gathering windows") as progress:
        for epoch in range(REPEATS):
            started = time.perf_counter()
            gathered = sum(len(batch.past) for batch in loader.epoch(epoch))
            seconds.append(time.perf_counter() - started)
            assert gathered == WINDOWS
            progress((epoch + 1) / REPEATS)
    return seconds


def judge(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tell how the largest fleet does by each goal; rows go from the smallest fleet to it."""
    small, large = rows[0], rows[-1]
    # The fastest epochs: whatever else runs on the machine can only add to a time.
    fast_small, fast_large = min(small["gather_seconds_each"]), min(large["gather_seconds_each"])
    measured = (
        (
            f"peak memory of {large['servers']:,} servers, in bytes of their series",
            large["peak_bytes"] / large["series_bytes"],
            MEMORY_GOAL,
        ),
        (
            f"a window of {large['servers']:,} servers, in time of one of {small['servers']:,}",
            fast_large / fast_small,
            WINDOW_GOAL,
        ),
    )
    return [
        {"goal": goal, "measured": value, "at_most": most, "met": value <= most}
        for goal, value, most in measured
    ]


def as_text(rows: Sequence[dict[str, Any]], goals: Sequence[dict[str, Any]]) -> str:
    """Lay out the fleets as a table, and a verdict on each goal."""
    table = [HEADER, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        for line in table
    ]
    verdicts = [
        f"{'met' if goal['met'] else 'MISSED'}: {goal['goal']}: {goal['measured']:.2f} "
        f"(goal: at most {goal['at_most']})"
        for goal in goals
    ]
    return "\n".join([*lines, "", *verdicts])


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Write a fleet's numbers, as in `HEADER`."""
    return (
        f"{row['servers']:,}",
        f"{row['windows']:,}",
        f"{row['series_bytes'] / 1e6:,.1f}",
        f"{row['load_seconds']:.2f}",
        f"{row['ticks'] / row['load_seconds']:,.0f}",
        f"{row['peak_bytes'] / 1e6:,.1f}",
        f"{row['peak_bytes'] / row['series_bytes']:.2f}",
        f"{row['index_seconds']:.3f}",
        f"{row['gather_seconds']:.3f}",
        f"{min(row['gather_seconds_each']):.3f}",
    )


if __name__ == "__main__":
    scale()
