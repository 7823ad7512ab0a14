"""The first pass over a table: which servers, from when to when, and what each column holds.

What is kept grows with the servers, not with the rows.

Shapes: n rows of a chunk that have their place, S servers in the order they were first seen.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from data.fleet import IntArray
from data.reading.clean import (
    EXPECTED_NAME,
    EXPECTED_TIME,
    FIRST_FEW,
    Codes,
    Rejections,
    read_times,
    to_ticks,
)
from data.reading.files import Chunk, TableFile, place_of
from data.reading.roles import TableSpec
from data.reading.spacing import Spacing
from data.reading.stats import ColumnStats, MostCommon

Progress = Callable[[float], None]

LONGEST_SPAN_SECONDS = 10 * 366 * 86_400
NEVER = np.iinfo(np.int64).max


class Keys(NamedTuple):
    """Where the rows of a chunk belong."""

    rows: IntArray  # [n] rows of the chunk
    servers: IntArray  # [n] codes
    ticks: IntArray  # [n]
    bad_times: IntArray  # rows whose time cannot be read
    bad_names: IntArray  # rows with a time and no server
    blank: int
    """Rows with neither: blank lines."""
    naive: int
    """Times that named no time zone."""


def read_keys(chunk: Chunk, spec: TableSpec, codes: Codes) -> Keys:
    """Read the server and the tick of each row of a chunk."""
    written = chunk.column(spec.timestamp)
    times = read_times(written, spec.timezone)
    servers = codes.encode(chunk.column(spec.server_name))
    blank = (servers < 0) & written.is_null().to_numpy(zero_copy_only=False)
    rows = np.flatnonzero((servers >= 0) & times.valid)
    return Keys(
        rows=rows,
        servers=servers[rows],
        ticks=to_ticks(times.milliseconds[rows], spec.step_seconds),
        bad_times=np.flatnonzero(~times.valid & ~blank),
        bad_names=np.flatnonzero(times.valid & (servers < 0)),
        blank=int(blank.sum()),
        naive=times.naive,
    )


@dataclass
class Survey:
    """What the first pass found."""

    columns: dict[str, ColumnStats]
    spacing: Spacing
    codes: Codes = field(default_factory=Codes)
    first_tick: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))  # [S]
    last_tick: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))  # [S]
    profile_codes: Codes = field(default_factory=Codes)
    profile: MostCommon = field(default_factory=MostCommon)
    rejections: Rejections = field(default_factory=Rejections)
    rows: int = 0
    blank: int = 0
    naive: int = 0

    def profiles(self) -> list[str | None]:
        """Return each server's most common profile, the first by name of equals, [S]."""
        names = sorted(self.profile_codes.names)
        if not names:
            return [None] * len(self.first_tick)
        modes, _ = self.profile.modes(self.profile_codes.ranks())
        return [None if np.isnan(mode) else names[int(mode)] for mode in modes]

    def add(self, chunk: Chunk, spec: TableSpec) -> None:
        """Take in one chunk."""
        keys = read_keys(chunk, spec, self.codes)
        self.rows += chunk.batch.num_rows
        self.blank += keys.blank
        self.naive += keys.naive
        self.rejections.add(chunk, spec.timestamp, keys.bad_times, EXPECTED_TIME)
        self.rejections.add(chunk, spec.server_name, keys.bad_names, EXPECTED_NAME)
        num_servers = len(self.codes.names)
        new = num_servers - len(self.first_tick)
        self.first_tick = np.append(self.first_tick, np.full(new, NEVER))
        self.last_tick = np.append(self.last_tick, np.full(new, -NEVER))
        np.minimum.at(self.first_tick, keys.servers, keys.ticks)
        np.maximum.at(self.last_tick, keys.servers, keys.ticks)
        self.spacing.add(keys.servers, keys.ticks)
        profiles = self.profile_codes.encode(chunk.column(spec.profile))[keys.rows]
        self.profile.add(keys.servers, np.where(profiles < 0, np.nan, profiles), num_servers)
        for name, stats in self.columns.items():
            stats.add(chunk, name, keys.rows, keys.servers, num_servers)


def survey_table(
    files: Sequence[TableFile], spec: TableSpec, columns: Sequence[str], progress: Progress
) -> Survey:
    """Read a table once, measuring the columns named.

    Raises:
        ValueError: a file is damaged, no row can be placed, a server spans over ten years or
            has no row for over 60 days.
    """
    survey = Survey({name: ColumnStats() for name in columns}, Spacing(spec.step_seconds))
    for chunk in read_chunks(files, spec, columns, progress):
        survey.add(chunk, spec)
    for file in files:
        survey.rows += len(file.ragged)
        survey.rejections.count += len(file.ragged)
        for index in range(min(len(file.ragged), FIRST_FEW - len(survey.rejections.first))):
            survey.rejections.first.append(
                f"{file.ragged_place(index)}: expected {len(file.kinds)} fields, as in the header"
            )
    _check_spans(survey, files, spec)
    return survey


def read_chunks(
    files: Sequence[TableFile], spec: TableSpec, columns: Sequence[str], progress: Progress
) -> Iterator[Chunk]:
    """Yield the chunks of all files in turn, with the key columns and those named."""
    text = (spec.server_name, spec.profile)
    total, before = sum(file.num_bytes for file in files), 0
    for file in files:
        for chunk in file.chunks({spec.timestamp, *text, *columns}, text):
            yield chunk
            progress((before + chunk.done * file.num_bytes) / total)
        before += file.num_bytes
        progress(before / total)


def _check_spans(survey: Survey, files: Sequence[TableFile], spec: TableSpec) -> None:
    path, rejected = place_of(files), survey.rejections
    seen = np.flatnonzero(survey.first_tick <= survey.last_tick)
    if not len(seen):
        why = f", the first: {rejected.first[0]}" if rejected.first else ""
        raise ValueError(
            f"{path} holds no usable row; {survey.rows:,} read, {rejected.count:,} rejected{why}"
        )
    names = list(survey.codes.names)
    gap = survey.spacing.longest_gap()
    if gap is not None:
        code = gap[0]
        before, after = (np.array(gap[1:]) * spec.step_seconds).astype("datetime64[s]")
        raise ValueError(
            f"server {names[code]!r} in {path} has a row at {before} and the next at {after}, over "
            "60 days later; take out the rows with a wrong time, or, where both are right, give "
            "the server another name from then on"
        )
    spans = (survey.last_tick - survey.first_tick)[seen]
    longest = int(spans.argmax())
    if spans[longest] * spec.step_seconds > LONGEST_SPAN_SECONDS:
        code = seen[longest]
        ends = np.array([survey.first_tick[code], survey.last_tick[code]]) * spec.step_seconds
        first, last = ends.astype("datetime64[s]")
        raise ValueError(
            f"server {names[code]!r} in {path} spans {first} to {last}, over "
            "ten years; take out the rows with a wrong time"
        )
