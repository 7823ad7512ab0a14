"""Which column plays which role: what a person says in `TableSpec`, and what the data decide."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np

from data.reading.stats import SLOTS, ColumnStats
from tft.schema import FeatureSchema, Metric

Bounds = tuple[float | None, float | None]

DEFAULT_PROFILE = "profile"
RARE = 0.001  # share of values past a natural bound that are mistakes; more, and there is no bound
# Share of the rows that hold their server's own value in a static column. Bitbrains' memory sizes
# reach 0.991 (see `data.reading.stats`), its metrics 0.76 at most.
STEADY = 0.95


@dataclass(frozen=True)
class TableSpec:
    """What the columns of a table mean."""

    timestamp: str = "timestamp"
    """Column of times."""
    server_name: str = "server_name"
    """Column of server names."""
    profile: str = DEFAULT_PROFILE
    """Column of server profiles; the default name may be missing from the table."""
    targets: tuple[str, ...] = ("cpu_percent", "memory_percent", "disk_percent", "load_average")
    """Metrics to forecast."""
    observed: tuple[str, ...] | None = None
    """Metrics seen in the past only; None: every other column of numbers that changes."""
    static: tuple[str, ...] | None = None
    """Numbers that describe a server; None: columns with one value per server."""
    bounds: Mapping[str, Bounds] = field(default_factory=dict)
    """Lower and upper bound by metric, None for no bound; other metrics' come from the data."""
    timezone: str = "UTC"
    """Zone of times that name none."""
    step_seconds: int = 300
    """Seconds between ticks."""
    strict: bool = False
    """Whether a rejected row or cell is an error."""

    def __post_init__(self) -> None:
        """Refuse roles that contradict each other."""
        if not self.targets:
            raise ValueError("targets is empty; name at least one column to forecast")
        for role in ("targets", "observed", "static"):
            if isinstance(getattr(self, role), str):
                raise ValueError(f"{role} is one text; expected a list of column names")
        columns = [self.timestamp, self.server_name, self.profile]
        columns += [*self.targets, *(self.observed or ()), *(self.static or ())]
        repeated = sorted({name for name in columns if columns.count(name) > 1})
        if repeated:
            raise ValueError(f"column {repeated[0]!r} is named twice; give each one role")
        if self.observed is not None:
            for name in set(self.bounds) - {*self.targets, *self.observed}:
                raise _no_such_metric(name, [*self.targets, *self.observed])
        for name, (lower, upper) in self.bounds.items():
            Metric(name, lower, upper)
        if self.step_seconds < 1:
            raise ValueError(f"step_seconds {self.step_seconds} must be at least 1")
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(
                f"timezone {self.timezone!r} is unknown; expected a name such as Europe/Berlin"
            ) from None


@dataclass(frozen=True)
class Roles:
    """What each column is read as."""

    targets: tuple[Metric, ...]
    observed: tuple[Metric, ...]
    static: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What was decided from the data, a sentence each."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Every metric, targets first."""
        return self.targets + self.observed


def table_spec(plain: Mapping[str, Any], source: str | Path | None = None) -> TableSpec:
    """Build a `TableSpec` from keys, such as the [data] table of a TOML file.

    A bound is `name = [lower, upper]` under `bounds`, with "none" where there is none.

    Args:
        plain: keys and values.
        source: the file they come from, for messages.

    Raises:
        ValueError: an unknown key, a value of the wrong type, or roles that contradict each other.
    """
    place = f"{source}: [data] " if source is not None else ""
    if not isinstance(plain, Mapping):
        raise ValueError(f"{place}is {plain!r}; expected a table of columns' roles")
    defaults = {spec_field.name: spec_field for spec_field in fields(TableSpec)}
    values: dict[str, Any] = {}
    for key, value in plain.items():
        if key not in defaults:
            raise ValueError(f"{place}unknown key {key!r}; {nearest(key, defaults)}")
        try:
            values[key] = _toml_value(key, value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{place}{key} = {value!r}: {error}") from error
    return TableSpec(**values)


def _toml_value(key: str, value: Any) -> Any:
    if key in ("targets", "observed", "static"):
        if not isinstance(value, (list, tuple)) or not all(isinstance(name, str) for name in value):
            raise ValueError("expected a list of column names")
        return tuple(value)
    if key == "bounds":
        if not isinstance(value, Mapping):
            raise ValueError("expected a table, name = [lower, upper]")
        return {name: _toml_bounds(pair) for name, pair in value.items()}
    type_ = {"step_seconds": int, "strict": bool}.get(key, str)
    if type(value) is not type_:
        raise ValueError(f"expected a value of type {type_.__name__}")
    return value


def _toml_bounds(pair: Any) -> Bounds:
    if not isinstance(pair, (list, tuple)) or len(pair) != 2:
        raise ValueError('expected [lower, upper], "none" for no bound')
    lower, upper = (None if bound in ("none", None) else float(bound) for bound in pair)
    return lower, upper


def parse_bounds(pairs: Iterable[str]) -> dict[str, Bounds]:
    """Read `name=low:high` texts; an empty side is no bound.

    Raises:
        ValueError: a text is of another form.
    """
    bounds = {}
    for pair in pairs:
        name, _, limits = pair.partition("=")
        low, colon, high = limits.partition(":")
        try:
            if not name or not colon:
                raise ValueError
            bounds[name] = (float(low) if low else None, float(high) if high else None)
        except ValueError:
            raise ValueError(
                f"bounds {pair!r}: expected name=low:high, such as load_average=0: for no upper one"
            ) from None
    return bounds


def decide_roles(
    spec: TableSpec, columns: Mapping[str, ColumnStats], others: Iterable[str] = ()
) -> Roles:
    """Give each surveyed column its role, and each metric its bounds.

    Args:
        spec: what a person said.
        columns: what the columns hold, in the order of the table.
        others: columns that can hold no number, to be named as ignored.

    Raises:
        ValueError: a target holds no number, a column named static is none.
    """
    notes: list[str] = []
    observed, static = list(spec.observed or ()), list(spec.static or ())
    said = {*spec.targets, *observed, *static}
    words, unchanging, unasked = list(others), [], []
    for name, stats in columns.items():
        if name in said:
            continue
        if not stats.numeric:
            words.append(name)
        elif stats.constant:
            unchanging.append(name)
        elif spec.static is None and _is_static(stats):
            static.append(name)
        elif spec.observed is None:
            observed.append(name)
        else:
            unasked.append(name)
    for name in spec.targets:
        if not columns[name].values:
            first = columns[name].rejections.first
            seen = f" ({first[0]})" if first else ""
            raise ValueError(
                f"target column {name!r} holds no number{seen}; mend it, or name another target "
                "with --target"
            )
    for name in spec.static or ():
        if columns[name].most_common.crowded.any():
            raise ValueError(
                f"column {name!r} was named static, but a server shows over {SLOTS} values of it; "
                "name it under observed"
            )
    kept_unchanging = [name for name in [*spec.targets, *observed] if columns[name].constant]
    for text, names in (
        ("left out, as it is no column of numbers", words),
        ("left out, as it never changes", unchanging),
        ("left out, as it was not asked for", unasked),
        ("kept, though it never changes", kept_unchanging),
    ):
        notes += [f"{name}: {text}" for name in names]
    for name in set(spec.bounds) - {*spec.targets, *observed}:
        raise _no_such_metric(name, [*spec.targets, *observed])
    metrics = [_metric(name, columns[name], spec, notes) for name in [*spec.targets, *observed]]
    num_targets = len(spec.targets)
    return Roles(
        tuple(metrics[:num_targets]), tuple(metrics[num_targets:]), tuple(static), tuple(notes)
    )


def roles_of(schema: FeatureSchema, present: Iterable[str]) -> Roles:
    """Return the roles of a trained forecaster; what the table lacks is noted as missing."""
    have = set(present)
    absent = [metric.name for metric in schema.observed if metric.name not in have]
    absent += [name for name in schema.static_reals if name not in have]
    notes = tuple(f"{name}: not in the table, read as missing" for name in absent)
    return Roles(schema.targets, schema.observed, schema.static_reals, notes)


def nearest(name: str, known: Iterable[str]) -> str:
    """Say what names there are, and which of them is most like a wrong one."""
    names = list(known)
    lower = {each.lower(): each for each in names}  # `Timestamp` is very like `timestamp`
    close = difflib.get_close_matches(name.lower(), lower, n=1)
    most_like = f", {lower[close[0]]!r} the nearest" if close else ""
    return f"there are {', '.join(names) or 'none'}{most_like}"


def _no_such_metric(name: str, metrics: Sequence[str]) -> ValueError:
    return ValueError(f"bounds name {name!r}, which is no metric; {nearest(name, metrics)}")


def _is_static(stats: ColumnStats) -> bool:
    """Whether a column holds one value per server, and not the same one for all servers."""
    modes, counts = stats.most_common.modes()
    different = np.unique(modes[~np.isnan(modes)])
    return len(different) > 1 and int(counts.sum()) >= STEADY * stats.values


def _metric(name: str, stats: ColumnStats, spec: TableSpec, notes: list[str]) -> Metric:
    if name in spec.bounds:
        return Metric(name, *spec.bounds[name])
    if name.endswith("_percent"):
        share = stats.above_100 / max(1, stats.values)
        if share <= RARE:
            return Metric(name, 0.0, 100.0)
        notes.append(f"{name}: {share:.2%} of its values exceed 100, so it has no upper bound")
        return Metric(name, 0.0)
    share = stats.negative / max(1, stats.values)
    if share <= RARE:
        return Metric(name, 0.0)
    notes.append(f"{name}: {share:.2%} of its values are negative, so it has no lower bound")
    return Metric(name)
