"""The changed worlds of `benchmarks.transfer`: a fleet without profiles, with gaps, or just begun.

S servers, N ticks of all servers together, W windows, M metrics.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from data.fleet import Fleet, IntArray
from data.reading import TableSpec, read_fleet
from data.splits import spread_evenly
from data.windows import WindowIndex, WindowStore, index_windows
from report.batches import naive_store
from report.naive import window_quantiles
from report.scores import ScoreSums, comparable
from tft.bundle import load_forecaster
from tft.forecaster import Forecaster

SHARES = (0.1, 0.3, 0.5)  # of ticks missing
BLOCK_HOURS = (1, 6)  # shortest and longest gap
HISTORY_HOURS = (1, 6, 24)  # of a server never seen
BATCH = 256
MODEL, FLAT = "tft", "flat"

# Weighted quantile loss by forecaster and metric; None where a forecast was not finite.
Scores = dict[str, dict[str, float | None]]


class World(NamedTuple):
    """Windows of a fleet that may not be as it was."""

    fleet: Fleet
    server: IntArray  # [W]
    origin: IntArray  # [W] the first tick to forecast, absolute


def study(model: str, data: str, seed: int, windows: int) -> dict[str, dict[str, Scores]]:
    """Score a forecaster in every world, on windows it was not trained on.

    Args:
        model: its bundle.
        data: the table it was trained on, some servers held out.
        seed: of what goes missing.
        windows: most windows of each world, evenly spaced.

    Returns:
        Of `profile`, `missing` and `history` the scores by world; those of one part are of the
        same ticks. No profiles in the table: no `profile`.
    """
    torch.set_num_threads(1)  # as many run as there are cores
    forecaster = load_forecaster(model)
    fleet = read_fleet(data, TableSpec(), forecaster.schema).fleet
    return study_fleet(forecaster, fleet, seed, windows)


def study_fleet(
    forecaster: Forecaster, fleet: Fleet, seed: int, windows: int
) -> dict[str, dict[str, Scores]]:
    """Do what `study` does with what it reads."""
    schema, trained = forecaster.schema, set(forecaster.facts.servers)
    seen = np.array([name in trained for name in fleet.servers])
    longest = max(schema.context_length, HISTORY_HOURS[-1] * 3600 // schema.step_seconds)
    full = replace(schema, context_length=longest, min_context_length=longest)
    known = index_windows(fleet, full, forecaster.facts.end_tick, servers=np.flatnonzero(seen))
    new = index_windows(fleet, full, servers=np.flatnonzero(~seen))
    parts = {
        "missing": with_gaps(_chosen(fleet, known, windows), schema.step_seconds, seed),
        "history": just_begun(_chosen(fleet, new, windows), schema.step_seconds,
                              schema.prediction_horizon),
    }  # fmt: skip
    if schema.profiles:
        world = _chosen(fleet, new, windows)
        hidden = replace(fleet, profiles=(None,) * len(fleet.servers))
        parts["profile"] = {"known": world, "hidden": world._replace(fleet=hidden)}
    truth = {"missing": known, "history": new, "profile": new}
    return {
        part: score(forecaster, _chosen(fleet, truth[part], windows), worlds)
        for part, worlds in parts.items()
    }


def score(forecaster: Forecaster, truth: World, worlds: dict[str, World]) -> dict[str, Scores]:
    """Score a forecaster and flat quantiles of the last day, from each world's history.

    A tick counts where flat quantiles know something in every world; so does a forecast that is
    not finite, which makes its scores None.
    """
    schema = forecaster.schema
    shape = schema.target_names, schema.quantiles, schema.prediction_horizon, schema.step_seconds
    sums = {name: {who: ScoreSums(*shape) for who in (MODEL, FLAT)} for name in worlds}
    after = WindowStore(truth.fleet, schema)
    stores = {
        name: (
            WindowStore(world.fleet, schema, "cpu", forecaster.facts.servers),
            naive_store(world.fleet, schema),
        )
        for name, world in worlds.items()
    }
    M, day = len(schema.targets), schema.day_ticks
    for start in range(0, len(truth.server), BATCH):
        part = slice(start, start + BATCH)
        forecasts = {}
        for name, world in worlds.items():
            store, naive = stores[name]
            where = world.server[part], world.origin[part]
            history = naive.gather(*where).past[:, :, :M].numpy()
            forecasts[name] = {
                MODEL: forecaster.forecast(store.gather(*where)).numpy(),
                FLAT: window_quantiles(history, schema.prediction_horizon, schema.quantiles, day),
            }
        future = after.gather(truth.server[part], truth.origin[part]).future.numpy()
        actual = comparable(future, *(of[FLAT] for of in forecasts.values()))
        for name, of in forecasts.items():
            for who, forecast in of.items():
                sums[name][who].add(forecast, actual)
    return {
        name: {
            who: {row.metric: row.to_dict()["wql"] for row in total.rows()}
            for who, total in of.items()
        }
        for name, of in sums.items()
    }


def with_gaps(whole: World, step_seconds: int, seed: int) -> dict[str, World]:
    """Take ticks away from a fleet's histories, at random and in blocks of 1 to 6 hours."""
    worlds = {"nothing": whole}
    for blocks in (False, True):
        for share in SHARES:
            gone = missing_rows(whole.fleet, share, blocks, step_seconds, seed)
            values = np.where(gone[:, None], np.nan, whole.fleet.values).astype(np.float32)
            name = f"{share:.0%} {'in blocks' if blocks else 'at random'}"
            worlds[name] = whole._replace(fleet=replace(whole.fleet, values=values))
    return worlds


def missing_rows(
    fleet: Fleet, share: float, blocks: bool, step_seconds: int, seed: int
) -> npt.NDArray[np.bool_]:
    """Draw the rows [N] that go missing, whole ticks of a server.

    In blocks, gaps of a uniform length alternate with stretches of an exponential one.
    """
    draw = np.random.default_rng(seed)
    if not blocks:
        return np.asarray(draw.random(len(fleet.values)) < share)
    shortest, longest = (hours * 3600 // step_seconds for hours in BLOCK_HOURS)
    between = (shortest + longest) / 2 * (1 - share) / share  # ticks
    gone = np.zeros(len(fleet.values), dtype=bool)
    for begin, end in zip(fleet.offsets[:-1], fleet.offsets[1:], strict=True):
        row = int(begin) - int(draw.integers(longest))
        while row < end:
            row += 1 + int(draw.exponential(between))
            stop = row + int(draw.integers(shortest, longest + 1))
            gone[max(row, int(begin)) : min(max(stop, int(begin)), int(end))] = True
            row = stop
    return gone


def just_begun(whole: World, step_seconds: int, horizon: int) -> dict[str, World]:
    """Let every window be of a server whose series began so many hours before."""
    worlds = {}
    for hours in HISTORY_HOURS:
        worlds[f"{hours} h"] = begun_before(whole, hours * 3600 // step_seconds, horizon)
    return worlds


def begun_before(whole: World, ticks: int, horizon: int) -> World:
    """Make a fleet of one server a window, `ticks` of history and a horizon long."""
    fleet, server, origin = whole
    local = origin - fleet.first_tick[server]
    rows = (fleet.offsets[server] + local)[:, None] + np.arange(-ticks, horizon)
    W = len(server)
    cut = Fleet(
        servers=tuple(fleet.servers[s] for s in server),
        profiles=tuple(fleet.profiles[s] for s in server),
        metrics=fleet.metrics,
        static_names=fleet.static_names,
        values=fleet.values[rows.ravel()],
        offsets=np.arange(W + 1) * (ticks + horizon),
        first_tick=origin - ticks,
        static=fleet.static[server],
        step_seconds=fleet.step_seconds,
    )
    return World(cut, np.arange(W), origin)


def held_out(fleet: Fleet, seed: int) -> tuple[str, ...]:
    """Choose a quarter of the servers of each profile with two or more, others by other seeds."""
    groups: dict[str | None, list[str]] = {}
    for name, profile in zip(fleet.servers, fleet.profiles, strict=True):
        groups.setdefault(profile, []).append(name)
    chosen = [
        name
        for group in groups.values()
        if len(group) > 1
        for name in group[seed % min(4, len(group)) :: 4]
    ]
    return tuple(sorted(chosen))


def split_table(fleet: Fleet, servers: int, folder: Path) -> tuple[Path, Path]:
    """Write a fleet as two tables: without every so-manieth server, and those, so many of them.

    Raises:
        ValueError: the fleet is too small for that.
    """
    if len(fleet.servers) < 2 * servers:
        raise ValueError(
            f"the table has {len(fleet.servers)} servers; {2 * servers} are needed, to start from "
            f"some and train on {servers} others"
        )
    small = set(spread_evenly(len(fleet.servers), servers).tolist())
    rest = [server for server in range(len(fleet.servers)) if server not in small]
    paths = folder / "source.parquet", folder / "small.parquet"
    for path, chosen in zip(paths, (rest, sorted(small)), strict=True):
        _rows(fleet, chosen).to_parquet(path)
    return paths


def _rows(fleet: Fleet, servers: Sequence[int]) -> pd.DataFrame:
    """Return the rows of some servers as `train` reads them."""
    frames = []
    for server in servers:
        frame: dict[str, Any] = dict(zip(fleet.metrics, fleet.series(server).T, strict=True))
        ticks = fleet.first_tick[server] + np.arange(fleet.lengths[server])
        frame["timestamp"] = pd.to_datetime(ticks * fleet.step_seconds, unit="s", utc=True)
        frame["server_name"] = fleet.servers[server]
        if fleet.profiles[server] is not None:
            frame["profile"] = fleet.profiles[server]
        frame |= dict(zip(fleet.static_names, fleet.static[server], strict=True))
        frames.append(pd.DataFrame(frame))
    return pd.concat(frames, ignore_index=True)


def _chosen(fleet: Fleet, index: WindowIndex, windows: int) -> World:
    """Take windows of an index, evenly spaced, in a world as it was."""
    return World(fleet, *index.lookup(spread_evenly(len(index), windows)))
