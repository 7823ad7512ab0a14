"""What `benchmarks.accuracy` trains on and judges on: machines known, machines never seen.

Every third server, by name, is held out of training entirely. The others train on their rows
before a cutoff in the middle of the table's time span; both are judged on windows after it. Those
windows have a day of history and the horizon with every target seen at every tick, so that
forecasters which cannot take gaps are judged on the same.

n windows, D ticks in a day, H horizon steps, M metrics (targets first), R static reals.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.fleet import Fleet, FloatArray, IntArray
from data.reading import TableSpec
from data.reading.clean import Codes
from data.reading.files import open_table
from data.reading.survey import read_chunks, read_keys
from data.splits import spread_evenly

DAY_SECONDS = 86_400
THIRD = 3
NEAR = 10  # a month that begins within a tenth of the span around its middle is the cutoff
KNOWN, UNSEEN = "known", "unseen"


class Windows(NamedTuple):
    """Windows to judge on, ordered by server and origin."""

    server: IntArray  # [n] numbers in the fleet
    origin: IntArray  # [n] absolute ticks, the first to forecast


def held_out_servers(fleet: Fleet) -> tuple[str, ...]:
    """Name every third server.

    Raises:
        ValueError: there are fewer than three.
    """
    if len(fleet.servers) < THIRD:
        raise ValueError(
            f"{len(fleet.servers)} servers: expected at least {THIRD}, as every third is held out "
            "of training"
        )
    return fleet.servers[THIRD - 1 :: THIRD]


def cutoff_tick(fleet: Fleet) -> int:
    """Return the tick at which training ends and judging begins.

    The middle of the time span, rounded down to a midnight (UTC); or the beginning of a month, if
    there is one within a tenth of the span around the middle.
    """
    step = fleet.step_seconds
    begin, end = (
        datetime.fromtimestamp(tick * step, UTC)
        for tick in (int(fleet.first_tick.min()), fleet.end_tick)
    )
    middle = begin + (end - begin) / 2
    midnight = middle.replace(hour=0, minute=0, second=0, microsecond=0)
    this_month = midnight.replace(day=1)
    next_month = (this_month + timedelta(days=32)).replace(day=1)
    month = min(this_month, next_month, key=lambda first: abs(first - middle))
    near = abs(month - middle) <= (end - begin) / NEAR
    return int((month if near else midnight).timestamp()) // step


def write_training_table(
    data: Path, spec: TableSpec, held_out: tuple[str, ...], cutoff: int, folder: Path
) -> int:
    """Write the rows that may be trained on, as they are in the table.

    Args:
        data: the whole table.
        spec: how it is read.
        held_out: servers to leave out.
        cutoff: tick from which on rows are left out.
        folder: a new one, for Parquet files that make up a table.

    Returns:
        The number of rows.

    Raises:
        ValueError: none is left.
    """
    folder.mkdir()
    files, codes, rows = open_table(data), Codes(), 0
    columns = {name: None for file in files for name in file.kinds}  # in their order
    chunks = read_chunks(files, spec, list(columns), lambda share: None)
    for number, chunk in enumerate(chunks):
        keys = read_keys(chunk, spec, codes)
        trained = np.array([name not in held_out for name in codes.names], bool)
        kept = pa.array(keys.rows[trained[keys.servers] & (keys.ticks < cutoff)])
        names = [*chunk.batch.schema.names, *chunk.file.partition]
        if len(kept):
            part = pa.table({name: _rows(chunk.column(name), kept) for name in names})
            pq.write_table(part, folder / f"part-{number:05}.parquet")
        rows += len(kept)
    if rows == 0:
        raise ValueError(f"{data}: no row of a server trained on before the cutoff")
    return rows


def _rows(column: pa.Array, rows: pa.Array) -> pa.Array:
    """Return some rows of a column; of a dictionary only the words they use."""
    column = column.take(rows)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def training_fleet(fleet: Fleet, held_out: tuple[str, ...], cutoff: int) -> Fleet:
    """Return the same rows as `write_training_table` on the grid of ticks, for peers."""
    kept = [
        number
        for number, name in enumerate(fleet.servers)
        if name not in held_out and fleet.first_tick[number] < cutoff
    ]
    series = [fleet.series(s)[: max(0, cutoff - int(fleet.first_tick[s]))] for s in kept]
    return Fleet(
        servers=tuple(fleet.servers[s] for s in kept),
        profiles=tuple(fleet.profiles[s] for s in kept),
        metrics=fleet.metrics,
        static_names=fleet.static_names,
        values=np.concatenate(series),
        offsets=np.cumsum([0, *map(len, series)]),
        first_tick=fleet.first_tick[kept],
        static=fleet.static[kept],
        step_seconds=fleet.step_seconds,
    )


def whole_windows(
    fleet: Fleet, num_targets: int, horizon: int, servers: IntArray, first_origin: int | None = None
) -> Windows:
    """List the windows with every target seen at every tick of a day's history and the horizon.

    Args:
        fleet: its first `num_targets` metrics are the targets.
        num_targets: of them.
        horizon: H.
        servers: numbers of the servers to take.
        first_origin: earliest tick to forecast; None: as early as history allows.
    """
    day = DAY_SECONDS // fleet.step_seconds
    length = day + horizon
    found = []
    for server in servers.tolist():
        values = fleet.series(server)[:, :num_targets]
        if len(values) < length:
            continue
        total = np.concatenate([[0], np.cumsum((~np.isnan(values)).all(axis=1))])
        whole = np.flatnonzero(total[length:] - total[:-length] == length)
        origin = int(fleet.first_tick[server]) + day + whole
        if first_origin is not None:
            origin = origin[origin >= first_origin]
        found.append(np.stack([np.full(len(origin), server), origin]))
    both = np.concatenate(found, axis=1) if found else np.empty((2, 0), np.int64)
    return Windows(both[0], both[1])


def judged_windows(
    fleet: Fleet, num_targets: int, horizon: int, cutoff: int, most: int
) -> dict[str, Windows]:
    """Return up to `most` windows, evenly spaced, of machines known and of machines never seen.

    Raises:
        ValueError: either has none.
    """
    held_out = np.isin(fleet.servers, held_out_servers(fleet))
    groups = {}
    for group, chosen in ((KNOWN, ~held_out), (UNSEEN, held_out)):
        # A machine that appears after the cutoff was not trained on, and is no test of "known".
        chosen = chosen & ((fleet.first_tick < cutoff) | held_out)
        every = whole_windows(fleet, num_targets, horizon, np.flatnonzero(chosen), cutoff)
        if len(every.server) == 0:
            raise ValueError(
                f"no window of {group} machines from the cutoff on has a day and {horizon} ticks "
                "with every target seen; bring more data, or name fewer targets"
            )
        kept = spread_evenly(len(every.server), most)
        groups[group] = Windows(every.server[kept], every.origin[kept])
    return groups


def gather(fleet: Fleet, windows: Windows, horizon: int) -> tuple[FloatArray, FloatArray]:
    """Return a day's history [n, D, M] and what came [n, H, M], NaN where missing."""
    day = DAY_SECONDS // fleet.step_seconds
    first = fleet.offsets[windows.server] + windows.origin - fleet.first_tick[windows.server]
    rows = first[:, None] + np.arange(-day, horizon)
    values = fleet.values[rows]
    return values[:, :day], values[:, day:]
