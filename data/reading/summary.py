"""What reading a table did, told so that nothing is done to a person's data in silence."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tft.schema import Metric


@dataclass(frozen=True)
class ReadSummary:
    """Counts of everything read, rejected, changed and found missing."""

    files: int
    rows: int
    """Rows of all files, blank ones included."""
    blank_rows: int
    """Rows with neither a time nor a server: empty lines, skipped."""
    rejected_rows: int
    rejected_cells: int
    """Cells of a number column that hold something else; missing in the fleet."""
    rejections: tuple[str, ...]
    """The first few rejections: where, what, and what was expected."""
    servers: int
    profiles: int
    """Different profiles."""
    first_tick: int
    end_tick: int
    step_seconds: int
    ticks: int
    """Ticks of all servers, each from its first row to its last."""
    ticks_missing: int
    """Ticks without a row."""
    gaps: int
    """Runs of ticks without a row."""
    longest_gap: int
    """Ticks of the longest of them."""
    gaps_over_an_hour: int
    cells_missing: int
    """Values missing from ticks that have a row."""
    merged_rows: int
    """Rows that fell into a tick which already had one; the tick holds the mean."""
    infinite_cells: int
    clipped: Mapping[str, int]
    """By metric, values above the upper bound, set to it."""
    below: Mapping[str, int]
    """By metric, values below the lower bound, now missing."""
    naive_times: int
    """Times that named no zone, read in `timezone`."""
    timezone: str
    targets: tuple[Metric, ...]
    observed: tuple[Metric, ...]
    static: tuple[str, ...]
    notes: tuple[str, ...]
    """What was decided about columns, a sentence each."""
    filled: int = 0
    """Ticks made up to close a gap: none, by rule."""

    def lines(self) -> list[str]:
        """Return the summary for a person, a label and what there is to say on each line."""
        step = self.step_seconds
        told = [
            ("rows", f"{self.rows:,} read from {_number(self.files, 'file')}"),
            ("rejected", f"{_number(self.rejected_rows, 'row')}, {_cells(self.rejected_cells)}"),
            *(("", place) for place in self.rejections),
            ("servers", f"{self.servers:,} in {_number(self.profiles, 'profile')}"),
            ("time", f"{_clock(self.first_tick * step)} to {_clock(self.end_tick * step)} UTC"),
            ("ticks", f"{self.ticks:,} of {step} s, {self.ticks_missing:,} without a row"),
            ("gaps", self._gaps()),
            ("merged", f"{_number(self.merged_rows, 'row')} into the mean of a tick"),
            ("missing", f"{_cells(self.cells_missing)} in ticks with a row"),
        ]
        if self.blank_rows:
            told.append(("blank", f"{_number(self.blank_rows, 'row')} skipped"))
        if self.infinite_cells:
            told.append(("infinite", f"{_cells(self.infinite_cells)}, now missing"))
        told += [
            ("clipped", f"{name}: {_cells(count)} above the upper bound, set to it")
            for name, count in self.clipped.items()
        ]
        told += [
            ("negative", f"{name}: {_cells(count)} below the lower bound, now missing")
            for name, count in self.below.items()
        ]
        if self.naive_times:
            told.append(
                (
                    "time zone",
                    f"{_number(self.naive_times, 'time')} without one, read as {self.timezone}",
                )
            )
        told += [("target", _bounded(metric)) for metric in self.targets]
        told += [("observed", _bounded(metric)) for metric in self.observed]
        told += [("static", name) for name in self.static]
        told += [("note", note) for note in self.notes]
        return [f"{label:<10}{text}" for label, text in _without_repeats(told)]

    def _gaps(self) -> str:
        if not self.gaps:
            return f"none, filled {self.filled}"
        hours = self.longest_gap * self.step_seconds / 3_600
        over = f"{self.gaps_over_an_hour:,} over an hour"
        return f"{self.gaps:,}, {over}, the longest {hours:,.1f} h, filled {self.filled}"


def _without_repeats(told: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Leave out a label that stands on the line above."""
    labels = [label for label, _ in told]
    return [
        ("" if index and labels[index - 1] == label else label, text)
        for index, (label, text) in enumerate(told)
    ]


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}" + "s" * (count != 1)


def _cells(count: int) -> str:
    return _number(count, "value")


def _clock(seconds: int) -> str:
    return str(np.datetime64(seconds, "s")).replace("T", " ")[:16]


def _bounded(metric: Metric) -> str:
    if metric.upper is not None and metric.lower is not None:
        return f"{metric.name}, {metric.lower:g} to {metric.upper:g}"
    if metric.lower is not None:
        return f"{metric.name}, at least {metric.lower:g}"
    return metric.name + (f", at most {metric.upper:g}" if metric.upper is not None else "")
