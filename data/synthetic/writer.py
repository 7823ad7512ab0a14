"""A made-up fleet of servers that behaves like a real one, and the same for the same seed.

`profiles` says what servers of each kind do, `plan` draws what happens to them, and `simulator`
runs them; here is what a caller needs: a spec, and a table or a file.
"""

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from data.synthetic.plan import Server
from data.synthetic.profiles import PROFILES
from data.synthetic.simulator import METRICS, Simulation, simulate

COLUMNS = ("timestamp", "server_name", "profile", *METRICS)
FACTS_FILE = "generation.json"
FORMATS = ("parquet", "csv")
_GENERATOR = "data.synthetic"  # marks a facts file as ours
_SIMULATED = 0.85  # share of the time that simulating takes; the rest is writing


@dataclass(frozen=True)
class FleetSpec:
    """What fleet to make up, and for how long."""

    hours: int = 720
    """How long it runs."""
    seed: int = 42
    """Of everything random: the same seed gives the same bytes."""
    num_ml_compute: int = 3
    """Servers of each profile; the default is a fleet of twenty."""
    num_database: int = 4
    num_web_api: int = 5
    num_conductor_mgmt: int = 2
    num_data_ingest: int = 3
    num_risk_analytics: int = 2
    num_generic: int = 1
    step_seconds: int = 300
    """Seconds between ticks."""
    start: datetime = datetime(2026, 1, 5, tzinfo=UTC)
    """Midnight UTC of the first day, a Monday."""

    def __post_init__(self) -> None:
        """Refuse what no fleet can be made of."""
        limits = {"hours": (1, 87_600), "seed": (0, 2**63 - 1), "step_seconds": (10, 3600)}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "start":
                continue
            low, high = limits.get(field.name, (0, 9999))
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(
                    f"{field.name} {value!r} must be a whole number from {low} to {high}"
                )
        if 3600 % self.step_seconds:
            raise ValueError(
                f"step_seconds {self.step_seconds} must divide an hour; take 60, 300 or 900"
            )
        if not sum(self.counts.values()):
            raise ValueError("num_* are all 0, so the fleet is empty; set at least one to 1")
        start = self.start
        if not isinstance(start, datetime) or start.utcoffset() != timedelta(0):
            raise ValueError(f"start {start!r} must be a datetime in UTC; pass tzinfo=UTC")
        if start != start.replace(hour=0, minute=0, second=0, microsecond=0):
            raise ValueError(f"start {start.isoformat()} must be midnight; leave the time out")

    @property
    def counts(self) -> dict[str, int]:
        """Number of servers of each profile."""
        return {profile: int(getattr(self, f"num_{profile}")) for profile in PROFILES}

    @property
    def servers(self) -> list[Server]:
        """Every server, in the order of their names."""
        servers = [
            Server(f"{PROFILES[profile].prefix}{number:04d}", PROFILES[profile], number)
            for profile, count in self.counts.items()
            for number in range(1, count + 1)
        ]
        return sorted(servers, key=lambda server: server.name)

    @property
    def num_ticks(self) -> int:
        """Ticks of one server."""
        return self.hours * 3600 // self.step_seconds


@dataclass(frozen=True)
class Incident:
    """Something went wrong at one server, and went on to others."""

    kind: str
    """`overload` (CPU, load), `slow_storage` (I/O wait) or `log_flood` (disk)."""
    start: str
    """When it began, ISO 8601."""
    origin: str
    """The server where it began."""
    reached: dict[str, float]
    """The other servers it reached, and after how many minutes."""


@dataclass(frozen=True)
class Restart:
    """A server was restarted."""

    server: str
    time: str
    """The first tick it did not report, ISO 8601."""
    reason: str
    """`out_of_memory`, `operator` or `patch`."""


@dataclass(frozen=True)
class GenerationFacts:
    """What was made up: rows + missing ticks = servers x ticks, always."""

    seed: int
    hours: int
    step_seconds: int
    start: str
    servers: int
    rows: int
    ticks_missing: dict[str, int]
    """By server: ticks without a row."""
    incidents: tuple[Incident, ...]
    restarts: tuple[Restart, ...]
    format: str | None = None
    """Of the file, None for a table in memory."""

    @property
    def total_missing(self) -> int:
        """Ticks of all servers without a row."""
        return sum(self.ticks_missing.values())

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, dicts, numbers and strings."""
        return {"generator": _GENERATOR, **asdict(self)}


def generate(
    spec: FleetSpec, progress: Callable[[float], None] | None = None
) -> tuple[pd.DataFrame, GenerationFacts]:
    """Make up a fleet in memory.

    Args:
        spec: what fleet.
        progress: called with the fraction done.

    Returns:
        A table with `COLUMNS`, sorted by server and time, float32 metrics rounded to two decimals
        and no row where a tick is missing; and what it holds.
    """
    servers, simulation = _run(spec, progress)
    table = pa.concat_tables(_tables(spec, servers, simulation))
    return table.to_pandas(), _facts(spec, servers, simulation, None)


def write_fleet(
    spec: FleetSpec,
    out_dir: str | os.PathLike[str],
    file_format: Literal["parquet", "csv"] = "parquet",
    progress: Callable[[float], None] | None = None,
) -> Path:
    """Make up a fleet and write `fleet.<file_format>`, with `generation.json` beside it.

    A file of an earlier run is replaced, one that is not ours never. What is half-written has
    another name until it is complete.

    Args:
        spec: what fleet.
        out_dir: created where it does not exist.
        file_format: "parquet" or "csv".
        progress: called with the fraction done.

    Returns:
        Path of the data file.

    Raises:
        ValueError: the format is unknown.
        FileExistsError: something in `out_dir` is in the way.
    """
    if file_format not in FORMATS:
        raise ValueError(f"file_format {file_format!r} must be one of {', '.join(FORMATS)}")
    folder = Path(out_dir)
    _refuse_to_overwrite(folder, file_format)

    def simulated(fraction: float) -> None:
        if progress is not None:
            progress(_SIMULATED * fraction)

    servers, simulation = _run(spec, simulated)
    facts = _facts(spec, servers, simulation, file_format)
    folder.mkdir(parents=True, exist_ok=True)  # only now: an interrupted run leaves no empty one
    data, about = folder / f"fleet.{file_format}", folder / FACTS_FILE
    parts = {path: folder / f".{path.name}.{os.getpid()}.part" for path in (about, data)}
    try:
        with parts[data].open("wb") as file:
            write = _write_parquet if file_format == "parquet" else _write_csv
            for done, _ in enumerate(write(file, _tables(spec, servers, simulation)), start=1):
                simulated(1 + (1 / _SIMULATED - 1) * done / len(servers))
            file.flush()
            os.fsync(file.fileno())
        parts[about].write_text(json.dumps(facts.to_dict(), indent=2) + "\n", encoding="utf-8")
        # The facts go first: data without them would pass for somebody else's.
        for path, part in parts.items():
            part.replace(path)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return data


def _refuse_to_overwrite(folder: Path, file_format: str) -> None:
    """Raise where anything but our own earlier file of this format is in the way."""
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"out_dir {folder} is a file; name a directory")
    about = folder / FACTS_FILE
    ours = _written_format(about)
    if about.exists() and ours is None:
        raise FileExistsError(
            f"{about} was not written by this generator; move it or name another out_dir"
        )
    for other in FORMATS:
        path = folder / f"fleet.{other}"
        if path.exists() and other != ours:
            raise FileExistsError(
                f"{path} was not written by this generator ({FACTS_FILE} beside it does not claim "
                "it); move it or name another out_dir"
            )
        if path.exists() and other != file_format:
            raise FileExistsError(
                f"{folder} holds fleet.{other} of an earlier run, and a directory holds one fleet; "
                f"remove it and {FACTS_FILE}, or name another out_dir"
            )


def _written_format(about: Path) -> str | None:
    """Return the format of the fleet that a facts file of ours is about, else None."""
    try:
        facts = json.loads(about.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    ours = isinstance(facts, dict) and facts.get("generator") == _GENERATOR
    return str(facts.get("format")) if ours else None


def _run(
    spec: FleetSpec, progress: Callable[[float], None] | None
) -> tuple[list[Server], Simulation]:
    """Simulate the servers of a spec."""
    servers = spec.servers
    simulation = simulate(
        servers, spec.hours, spec.step_seconds, spec.start, spec.seed, progress=progress
    )
    return servers, simulation


def _facts(
    spec: FleetSpec, servers: list[Server], simulation: Simulation, file_format: str | None
) -> GenerationFacts:
    """Return what a simulation holds, with names and times in place of numbers."""

    def time(tick: int) -> str:
        return (spec.start + timedelta(seconds=tick * spec.step_seconds)).isoformat()

    missing = (~simulation.present).sum(axis=1)
    incidents = [
        Incident(
            planned.kind,
            time(planned.hits[0].start),
            servers[planned.hits[0].server].name,
            {
                servers[hit.server].name: (hit.start - planned.hits[0].start)
                * spec.step_seconds
                / 60
                for hit in planned.hits[1:]
            },
        )
        for planned in simulation.incidents
    ]
    return GenerationFacts(
        seed=spec.seed,
        hours=spec.hours,
        step_seconds=spec.step_seconds,
        start=time(0),
        servers=len(servers),
        rows=int(simulation.present.sum()),
        ticks_missing={s.name: int(count) for s, count in zip(servers, missing, strict=True)},
        incidents=tuple(incidents),
        restarts=tuple(
            Restart(servers[s].name, time(tick), reason) for tick, s, reason in simulation.restarts
        ),
        format=file_format,
    )


def _tables(spec: FleetSpec, servers: list[Server], simulation: Simulation) -> Iterator[pa.Table]:
    """Yield the rows of one server after the other."""
    step = np.timedelta64(spec.step_seconds * 1_000_000, "us")
    times = np.datetime64(spec.start.replace(tzinfo=None), "us") + step * np.arange(spec.num_ticks)
    for s, server in enumerate(servers):
        here = simulation.present[s]
        rows = int(here.sum())
        columns = [
            pa.array(times[here], type=pa.timestamp("us", tz="UTC")),
            pa.repeat(pa.scalar(server.name), rows),
            pa.repeat(pa.scalar(server.profile.name), rows),
            *(pa.array(simulation.values[s, here, m]) for m in range(len(METRICS))),
        ]
        yield pa.table(columns, names=list(COLUMNS))


def _write_parquet(file: BinaryIO, tables: Iterator[pa.Table]) -> Iterator[None]:
    """Write one row group per server, and yield after each."""
    writer = None
    for table in tables:
        writer = writer or pyarrow.parquet.ParquetWriter(file, table.schema)
        writer.write_table(table)
        yield
    if writer is not None:
        writer.close()


def _write_csv(file: BinaryIO, tables: Iterator[pa.Table]) -> Iterator[None]:
    """Write a header and one server after the other, and yield after each."""
    file.write((",".join(COLUMNS) + "\n").encode())
    options = pyarrow.csv.WriteOptions(include_header=False, quoting_style="none")
    for table in tables:
        texts = np.datetime_as_string(table["timestamp"].to_numpy(), unit="s", timezone="UTC")
        table = table.set_column(0, "timestamp", pa.array(texts))
        pyarrow.csv.write_csv(table, file, write_options=options)
        yield
