"""Which query gives which column.

A query looks at samples in range selectors, `metric[$range]`, and `$range` is one step of the grid,
no more: a tick in whose own step no sample was scraped has no value. A bare `metric` would not do:
Prometheus answers it with the last sample for five more minutes (its lookback delta), so that a
missing tick would pass for one more equal measurement.

Several samples in a step become one value by the query's own function. `avg_over_time` is the rule
of `data.reading`: rows of one server in one tick become their mean.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from data.reading.roles import nearest

RANGE, LABELS = "$range", "$labels"
KEY_COLUMNS = ("timestamp", "server_name", "profile")
# Disks that fill up; not the kernel's own file systems, nor images, which are always full.
_FILE_SYSTEMS = 'fstype=~"ext[234]|xfs|btrfs|zfs|ufs|apfs"'
NODE_EXPORTER = {
    # Of all modes, so that a machine seen for a part of the step (it was restarted) is not busy
    # for the rest of it: both rates are too low by the same factor.
    "cpu_percent": (
        '100 * (1 - sum by ($labels) (rate(node_cpu_seconds_total{mode="idle"}[$range]))'
        " / sum by ($labels) (rate(node_cpu_seconds_total[$range])))"
    ),
    "memory_percent": (
        "100 * avg by ($labels) (1 - avg_over_time(node_memory_MemAvailable_bytes[$range])"
        " / avg_over_time(node_memory_MemTotal_bytes[$range]))"
    ),
    "disk_percent": (  # of the fullest
        f"100 * max by ($labels) (1 - avg_over_time(node_filesystem_avail_bytes{{{_FILE_SYSTEMS}}}"
        f"[$range]) / avg_over_time(node_filesystem_size_bytes{{{_FILE_SYSTEMS}}}[$range]))"
    ),
    "load_average": "avg by ($labels) (avg_over_time(node_load1[$range]))",
}


@dataclass(frozen=True)
class Queries:
    """What is asked for, and what the answers' labels mean."""

    metrics: Mapping[str, str] = field(default_factory=lambda: dict(NODE_EXPORTER))
    """PromQL by column; `$range` stands for one step, `$labels` for the two labels below."""
    server_label: str = "instance"
    """Label that names the server."""
    profile_label: str | None = None
    """Label that names its profile."""
    step_seconds: int = 300
    """Seconds between ticks."""

    def __post_init__(self) -> None:
        """Refuse queries that would give no table, or repeat stale samples."""
        if not self.metrics:
            raise ValueError("metrics is empty; give at least one column its query")
        for name, query in self.metrics.items():
            if name in KEY_COLUMNS or not name.strip():
                raise ValueError(f"metrics: {name!r} cannot name a column of numbers")
            if RANGE not in query:
                raise ValueError(
                    f"metrics: {name} = {query!r} has no {RANGE}; write metric[{RANGE}] inside a "
                    "function such as avg_over_time, or a stale sample would be repeated"
                )
        for label in self.labels:
            if not re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", label):
                raise ValueError(f"{label!r} is no label name; expected one such as instance")
        if not 1 <= self.step_seconds <= 86_400:
            raise ValueError(f"step_seconds {self.step_seconds} must be from 1 to 86400")

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that are kept."""
        return (self.server_label, *([self.profile_label] if self.profile_label else []))

    def promql(self, name: str, milliseconds: int) -> str:
        """Return the query of a column, looking back so many milliseconds."""
        query = self.metrics[name].replace(RANGE, f"{milliseconds}ms")
        return query.replace(LABELS, ", ".join(self.labels))


def read_queries(path: str | Path | None) -> Queries:
    """Read a TOML file of queries; without one, ask for what node_exporter measures.

    Its keys are `server_label`, `profile_label`, `step_seconds` and the table `[metrics]`, each
    line of it `column = 'query'`; a key left out has its default.

    Raises:
        ValueError: it cannot be read, or holds an unknown key or an impossible value.
    """
    if path is None:
        return Queries()
    try:
        plain = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    types = {"metrics": dict, "step_seconds": int}
    known = [known.name for known in fields(Queries)]
    for key, value in plain.items():
        if key not in known:
            raise ValueError(f"{path}: unknown key {key!r}; {nearest(key, known)}")
        _check(f"{path}: {key}", value, types.get(key, str))
    for name, query in plain.get("metrics", {}).items():
        _check(f"{path}: metrics.{name}", query, str)
    try:
        return Queries(**plain)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _check(place: str, value: Any, type_: type) -> None:
    if type(value) is not type_:
        expected = {dict: "a table of queries", int: "a whole number", str: "a text"}[type_]
        raise ValueError(f"{place} = {value!r}; expected {expected}")
