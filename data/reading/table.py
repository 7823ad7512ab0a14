"""Read a table of server metrics, whatever state it is in, into a `Fleet`.

The table is a CSV file (`.csv`, `.csv.gz`), a Parquet file or a folder of either, with one row per
server and tick, in any order. It is read twice, chunk by chunk: first to learn the servers, their
spans and what the columns hold (`data.reading.survey`), then to put every value into its place
(`data.reading.grid`). So memory holds the fleet and one chunk, however large the table is.

| what may be wrong | what is done | in the summary |
|---|---|---|
| a clock off the grid | a row belongs to the step it falls in; one up to 30 s (at most a tenth of a step) early belongs to the next | |
| rows out of order | sorted into place | |
| several rows of one server in one tick | the mean of their values, missing ones left out | `merged` |
| gaps | stay missing, never filled; over 60 days without a row of a server, or over ten years from its first to its last, are an error: a time is wrong | `ticks`, `gaps` |
| rows further apart than `step_seconds` | an error where hardly any row follows the one before within a step: most ticks would be gaps | |
| a server that appears late or vanishes | its series runs from its first row to its last | |
| an empty cell, `nan`, `na`, `n/a`, `null`, `none`, `-` | missing | `missing` |
| an infinite number | missing | `infinite` |
| text in a number column | that cell is missing | `rejected`, with file, line, value |
| a time that cannot be read, or before 1973-03-03 | the row is rejected | `rejected`, with file, line, value |
| a time without a zone | read in `timezone`, UTC unless told; at the end of summer time the first of two equal times, at its start the moment of the change | `time zone` |
| an epoch number | seconds, milliseconds, microseconds or nanoseconds, by its size | |
| no server name | the row is rejected; spaces around a name do not count | `rejected` |
| an empty line | skipped | `blank` |
| a line with too few or too many fields | rejected | `rejected`, with file, line |
| a `*_percent` over 100 | set to 100; but where more than 0.1 % of the values are, there is no upper bound | `clipped`, `note` |
| a negative value | missing; but where more than 0.1 % of the values of a metric (no `*_percent`) are, it has no lower bound | `negative`, `note` |
| a column that never changes | a target, or one asked for, is kept, any other left out | `note` |
| a column not given a role | text is left out; numbers are static if 95 % of all rows hold their server's most common value and that differs between servers, else observed | `static`, `observed`, `note` |
| a static value that changes | the server's most common one, the smallest of equals; missing where a server shows over 32 | |
| several profiles of one server | its most common one; none given is no error | |
| `__index_level_0__` and the like, which pandas writes into Parquet files | left out: row numbers, no metric | |
| a column some files of a folder lack | missing in their rows | |

A server's static values and its profile are its most common ones in the whole table, so of later
rows too, and bounds are decided from the whole table: neither knows of a split by time.

With `strict`, whatever is rejected is an error instead.
"""  # noqa: E501

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.fleet import Fleet, IntArray
from data.reading.clean import Rejections
from data.reading.files import Kind, TableFile, open_table, place_of
from data.reading.grid import Cleaner, Gaps, Grid
from data.reading.roles import DEFAULT_PROFILE, Roles, TableSpec, decide_roles, nearest, roles_of
from data.reading.summary import ReadSummary
from data.reading.survey import Survey, read_chunks, read_keys, survey_table
from tft.schema import FeatureSchema, Metric

FLAGS = {
    "timestamp": "--timestamp-column",
    "server_name": "--server-column",
    "profile": "--profile-column",
    "target": "--target",
    "observed": "--observed",
    "static": "--static",
}


class ReadResult(NamedTuple):
    """A table, read."""

    fleet: Fleet
    targets: tuple[Metric, ...]
    observed: tuple[Metric, ...]
    summary: ReadSummary


def read_fleet(
    path: str | Path,
    spec: TableSpec | None = None,
    schema: FeatureSchema | None = None,
    progress: Callable[[float], None] | None = None,
) -> ReadResult:
    """Read a table into a fleet.

    Args:
        path: a `.csv`, `.csv.gz` or `.parquet` file, or a folder of CSV or of Parquet files.
        spec: what its columns mean.
        schema: of a trained forecaster; its metrics, bounds, static columns and step are then
            used, whatever the spec and the data say. Only a missing target is an error.
        progress: called with the share done, 0 to 1.

    Returns:
        The fleet, its metrics in the order of `targets` and `observed`, and what was done to it.

    Raises:
        ValueError: the table cannot be read, lacks a column, or holds no usable row; or, with
            `spec.strict`, a row or cell was rejected; or its rows are further apart than a step.
    """
    spec = spec or TableSpec()
    if schema is not None:
        spec = replace(spec, step_seconds=schema.step_seconds)
    tell = progress or (lambda share: None)

    files = open_table(path)
    columns = _columns(files, spec)
    _check_columns(files, columns, spec, schema)
    wanted = columns if schema is None else schema.static_reals
    numbers = [name for name in wanted if columns.get(name) in ("number", "text")]

    survey = survey_table(files, spec, numbers, lambda share: tell(share / 2))
    _check_step(files, survey, spec.step_seconds, trained=schema is not None)
    if schema is None:
        roles = decide_roles(
            spec, survey.columns, [name for name in columns if name not in numbers]
        )
    else:
        roles = roles_of(schema, columns)
    static = [survey.columns[name] for name in roles.static if name in survey.columns]
    refused = [survey.rejections, *(stats.rejections for stats in static)]
    _check_strict(spec, refused)

    names, order = _sorted_servers(survey)
    grid, cleaner = _fill(files, spec, roles, survey, order, lambda share: tell((1 + share) / 2))
    refused.append(cleaner.rejections)
    _check_strict(spec, refused)

    fleet = _fleet(names, order, grid, roles, survey, spec.step_seconds)
    summary = _summary(files, roles, survey, fleet, grid, cleaner, refused, spec.timezone)
    return ReadResult(fleet, roles.targets, roles.observed, summary)


def _columns(files: Sequence[TableFile], spec: TableSpec) -> dict[str, Kind]:
    """Return every column of a table but the key columns, in the order they appear."""
    columns: dict[str, Kind] = {}
    for file in files:
        for name, kind in file.kinds.items():
            unusable = kind in ("time", "other")
            columns[name] = kind if unusable or name not in columns else columns[name]
    for name in (spec.timestamp, spec.server_name, spec.profile):
        columns.pop(name, None)
    return columns


def _check_columns(
    files: Sequence[TableFile],
    columns: dict[str, Kind],
    spec: TableSpec,
    schema: FeatureSchema | None,
) -> None:
    """Refuse a table without its key columns, its targets or a column somebody named."""
    keys = {"timestamp": ("number", "text", "time"), "server_name": ("number", "text")}
    if spec.profile != DEFAULT_PROFILE:
        keys["profile"] = ("number", "text")
    for file in files:
        for role, kinds in keys.items():
            name = getattr(spec, role)
            kind = "text" if name in file.partition else file.kinds.get(name)
            if kind is None:
                raise ValueError(
                    f"{file.path} has no column {name!r} ({role}); "
                    f"{_choices(name, file.kinds, role)}"
                )
            if kind not in kinds:
                raise ValueError(f"{file.path}: column {name!r} is no {role}; it holds {kind}")
    if schema is not None:
        needed = dict.fromkeys(schema.target_names, "target of the trained forecaster")
    else:
        roles = {"target": spec.targets, "observed": spec.observed, "static": spec.static}
        needed = {name: role for role, names in roles.items() for name in names or ()}
    for name, role in needed.items():
        if name not in columns:
            raise ValueError(
                f"{place_of(files)} has no column {name!r} ({role}); "
                f"{_choices(name, columns, role)}"
            )
    optional = () if schema is None else (*schema.metric_names, *schema.static_reals)
    for name in (*needed, *optional):
        if columns.get(name, "number") not in ("number", "text"):
            raise ValueError(f"{place_of(files)}: column {name!r} holds {columns[name]}, no number")


def _choices(name: str, columns: Iterable[str], role: str) -> str:
    """Say what there is in place of a missing column, and what to do about it."""
    names = list(columns)
    if len(names) == 1 and any(sign in names[0] for sign in ";\t|"):
        return (
            f"its header is one name, {names[0]!r}; "
            "write the table with commas between fields and points in decimals"
        )
    flag = FLAGS.get(role)
    other = f", or say which one it is with {flag}" if flag else ""
    return f"{nearest(name, names)}; rename the column{other}"


def _check_step(
    files: Sequence[TableFile], survey: Survey, step_seconds: int, trained: bool
) -> None:
    """Refuse a table whose rows are too far apart for the step."""
    apart = survey.spacing.seconds_apart()
    if apart is None:
        return
    if trained:
        expected = f"the forecaster was trained on a step of {step_seconds} s"
        remedy = "give it rows as close as that, or train one on rows like these"
    else:
        expected, remedy = f"step_seconds is {step_seconds}", f"set step_seconds = {apart}"
    raise ValueError(f"{place_of(files)}: rows are {apart} s apart, {expected}; {remedy}")


def _check_strict(spec: TableSpec, refused: Sequence[Rejections]) -> None:
    rejections = Rejections.total(refused)
    if spec.strict and rejections.count:
        raise ValueError(
            f"{rejections.first[0]} ({rejections.count:,} rejected in all; without strict they "
            "are left out)"
        )


def _sorted_servers(survey: Survey) -> tuple[tuple[str, ...], IntArray]:
    """Return the names of the servers with a row, sorted, and their codes in that order, [S]."""
    usable = survey.first_tick <= survey.last_tick
    names = sorted(name for name, code in survey.codes.names.items() if usable[code])
    return tuple(names), np.array([survey.codes.names[name] for name in names])


def _fill(
    files: Sequence[TableFile],
    spec: TableSpec,
    roles: Roles,
    survey: Survey,
    order: IntArray,
    tell: Callable[[float], None],
) -> tuple[Grid, Cleaner]:
    """Read the table the second time, now into the grid."""
    first = survey.first_tick[order]
    grid = Grid(first, survey.last_tick[order] - first + 1, len(roles.metrics))
    cleaner = Cleaner(roles.metrics)
    position = np.full(len(survey.codes.names), -1)
    position[order] = np.arange(len(order))
    for chunk in read_chunks(files, spec, [metric.name for metric in roles.metrics], tell):
        keys = read_keys(chunk, spec, survey.codes)
        if len(survey.codes.names) > len(position):
            raise ValueError(f"{chunk.file.path} changed while it was being read; read a copy")
        cells = cleaner.cells(chunk, keys.rows)
        grid.add(grid.rows_of(position[keys.servers], keys.ticks), cells)
    grid.finish()
    return grid, cleaner


def _fleet(
    names: tuple[str, ...],
    order: IntArray,
    grid: Grid,
    roles: Roles,
    survey: Survey,
    step_seconds: int,
) -> Fleet:
    """Put together what the two passes found, servers in the order of their names."""
    static = np.full((len(order), len(roles.static)), np.nan, np.float32)  # [S, R]
    for index, name in enumerate(roles.static):
        if name in survey.columns:
            modes, _ = survey.columns[name].most_common.modes()
            static[:, index] = modes[order]
    profiles = survey.profiles()
    return Fleet(
        servers=names,
        profiles=tuple(profiles[code] for code in order),
        metrics=tuple(metric.name for metric in roles.metrics),
        static_names=roles.static,
        values=grid.values,
        offsets=grid.offsets,
        first_tick=grid.first_tick,
        static=static,
        step_seconds=step_seconds,
    )


def _summary(
    files: Sequence[TableFile],
    roles: Roles,
    survey: Survey,
    fleet: Fleet,
    grid: Grid,
    cleaner: Cleaner,
    refused: Sequence[Rejections],
    timezone: str,
) -> ReadSummary:
    gaps, missing = Gaps(), 0
    for start, end in pairwise(fleet.offsets):
        gaps.add(grid.present[start:end], fleet.step_seconds)
        missing += int(np.isnan(fleet.values[start:end]).sum())
    rejections = Rejections.total(refused)
    static = [survey.columns[name] for name in roles.static if name in survey.columns]
    return ReadSummary(
        files=len(files),
        rows=survey.rows,
        blank_rows=survey.blank,
        rejected_rows=survey.rejections.count,
        rejected_cells=rejections.count - survey.rejections.count,
        rejections=tuple(rejections.first),
        servers=len(fleet.servers),
        profiles=len(set(fleet.profiles) - {None}),
        first_tick=int(fleet.first_tick.min()),
        end_tick=fleet.end_tick,
        step_seconds=fleet.step_seconds,
        ticks=len(fleet.values),
        ticks_missing=gaps.ticks,
        gaps=gaps.count,
        longest_gap=gaps.longest,
        gaps_over_an_hour=gaps.over_an_hour,
        cells_missing=missing - gaps.ticks * len(fleet.metrics),
        merged_rows=grid.merged,
        infinite_cells=cleaner.infinite + sum(stats.infinite for stats in static),
        clipped=dict(+cleaner.clipped),
        below=dict(+cleaner.below),
        naive_times=survey.naive,
        timezone=timezone,
        targets=roles.targets,
        observed=roles.observed,
        static=roles.static,
        notes=roles.notes,
    )
