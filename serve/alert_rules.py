"""When to alert, as a person wrote it down: ceilings, exclusions, patience.

A TOML file; every key may be left out, and these are the defaults but for the ceilings:

    gate = 0.5              # the quantile of the coming hours' peak that must reach the ceiling:
                            # the median, or an upper one to warn of what is less likely
    nearest_minutes = 30    # these hours are from so far ahead
    farthest_minutes = 480  # to so far
    pending_ticks = 2       # for so many after the first, forecasts must say so before one fires
    clear_ticks = 6         # for which they must not before it is over
    clear_margin = 0.25     # and by how much: with a probability a quarter lower than raises one

    [ceilings]              # of every server
    cpu_percent = 90
    load_average = 12.5

    [profile_ceilings.database]
    memory_percent = 97

    [server_ceilings.db-07] # the most specific one counts
    memory_percent = 99

    [[exclude]]             # never watched, whatever its ceiling: a server, profile or metric, or
    server = "backup-01"    # where all that is said fits
    metric = "cpu_percent"

The gate quantile of the peak reaches the ceiling where the probability of a breach in these hours
is 1 - gate at least: so the alarm probabilities of `report.early_warning` are gates, and what
`evaluate` measured of them holds. It is not the gate quantile of any single tick: no tick need be
likelier than not to breach where one of a hundred is. On the built-in fleet the median of single
ticks warned of 5 % of the breaches, that of the peak of 53 % (20 servers, 6 days held out).

S servers, M target metrics.
"""

import difflib
import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.fleet import FloatArray
from data.reading.roles import nearest
from report.early_warning.breaches import (
    FARTHEST_SECONDS,
    NEAREST_SECONDS,
    PERCENT_BOUND,
    PERCENT_THRESHOLD,
)
from tft.schema import FeatureSchema

BY_BOUND = f"{PERCENT_THRESHOLD:g}, as the metric is a percentage"
BY_EVALUATION = "the threshold of the run's evaluation"
EXCLUSION_KEYS = ("server", "profile", "metric")


@dataclass(frozen=True)
class Exclusion:
    """What is never watched: where all that is given fits."""

    server: str | None = None
    profile: str | None = None
    metric: str | None = None


@dataclass(frozen=True)
class AlertRules:
    """What the module's text explains, checked against the schema of the model."""

    gate: float = 0.5
    nearest_minutes: float = NEAREST_SECONDS / 60
    farthest_minutes: float = FARTHEST_SECONDS / 60
    pending_ticks: int = 2
    clear_ticks: int = 6
    clear_margin: float = 0.25
    ceilings: Mapping[str, float] = field(default_factory=dict)
    """By metric, the defaults among them."""
    profile_ceilings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    server_ceilings: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    exclude: tuple[Exclusion, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where each of `ceilings` is from."""

    @property
    def alarm_at(self) -> float:
        """The probability of a breach that raises an alert."""
        return round(1.0 - self.gate, 9)

    def not_watched(self, metrics: Iterable[str]) -> tuple[str, ...]:
        """Return the metrics without a ceiling of their own: watched where a server has one."""
        return tuple(metric for metric in metrics if metric not in self.ceilings)

    def thresholds(
        self, servers: Sequence[str], profiles: Sequence[str | None], metrics: Sequence[str]
    ) -> FloatArray:
        """Return the ceiling of every server's metrics, [S, M], NaN where one is not watched."""
        base = np.array([self.ceilings.get(metric, np.nan) for metric in metrics], np.float32)
        values = np.tile(base, (len(servers), 1))
        for row, (server, profile) in enumerate(zip(servers, profiles, strict=True)):
            # The rules of most servers are the fleet's: 10,000 are done in milliseconds.
            for own in (self.profile_ceilings.get(profile or ""), self.server_ceilings.get(server)):
                for metric, ceiling in (own or {}).items():
                    values[row, metrics.index(metric)] = ceiling
            for each in self.exclude:
                if each.server in (None, server) and each.profile in (None, profile):
                    out = slice(None) if each.metric is None else metrics.index(each.metric)
                    values[row, out] = np.nan
        return values

    def unmatched(self, servers: Sequence[str], profiles: Sequence[str | None]) -> tuple[str, ...]:
        """Say which names in the rules are of no server or profile there is: a slip, perhaps."""
        said = {
            "server": [*self.server_ceilings, *(each.server for each in self.exclude)],
            "profile": [*self.profile_ceilings, *(each.profile for each in self.exclude)],
        }
        there = {"server": set(servers), "profile": set(filter(None, profiles))}
        lines = []
        for kind, names in said.items():
            for name in dict.fromkeys(filter(None, names)):
                if name not in there[kind]:
                    near = difflib.get_close_matches(name, there[kind], n=1)
                    alike = f"; {near[0]!r} is the nearest that has" if near else ""
                    lines.append(f"alert rules: no {kind} {name!r} has reported{alike}")
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)


def load_rules(
    path: Path | None, schema: FeatureSchema, evaluated: Mapping[str, float] | None = None
) -> AlertRules:
    """Read and check a file of rules, and add the ceilings it does not name.

    A metric without a ceiling in the file has 90 where its upper bound is 100, else the threshold
    its run was evaluated with, else none: it is not watched then.

    Args:
        path: the file; None: only defaults.
        schema: of the model that forecasts.
        evaluated: thresholds of the run's evaluation, see `evaluated_thresholds`.

    Raises:
        ValueError: the file cannot be read, or says what cannot be; the message names the key.
    """
    plain = _read(path) if path is not None else {}
    where = f"{path or 'alert rules'}: "
    known = [each.name for each in fields(AlertRules) if each.name != "sources"]
    for key in plain:
        if key not in known:
            raise ValueError(f"{where}unknown key {key!r}; {nearest(key, known)}")
    ceilings, sources = _default_ceilings(schema, evaluated or {})
    own = _ceilings(plain.get("ceilings", {}), f"{where}[ceilings] ", schema)
    return AlertRules(
        **_numbers(plain, where, schema),
        ceilings=ceilings | own,
        profile_ceilings=_ceilings_by_name(plain, "profile_ceilings", where, schema),
        server_ceilings=_ceilings_by_name(plain, "server_ceilings", where, schema),
        exclude=_exclusions(plain.get("exclude", []), where, schema),
        sources=sources | {metric: path.name for metric in own if path is not None},
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise ValueError(
            f"{path}: the alert rules cannot be read ({error.strerror}); name a TOML file"
        ) from error
    except ValueError as error:  # no UTF-8, or no TOML: the message has the line
        raise ValueError(f"{path}: expected TOML in UTF-8; {error}") from error


class _Number(NamedTuple):
    """What a number may be."""

    expected: str
    fits: Callable[[float], bool]
    whole: bool = False


_NUMBERS = {
    "gate": _Number("a quantile between 0 and 1, such as 0.5", lambda x: 0.0 < x < 1.0),
    "nearest_minutes": _Number("minutes, 0 or more", lambda x: x >= 0.0),
    "farthest_minutes": _Number("minutes, more than 0", lambda x: x > 0.0),
    "pending_ticks": _Number("a whole number of ticks, 0 or more", lambda x: x >= 0, whole=True),
    "clear_ticks": _Number("a whole number of ticks, 1 or more", lambda x: x >= 1, whole=True),
    "clear_margin": _Number("a share, 0 up to below 1", lambda x: 0.0 <= x < 1.0),
}


def _numbers(plain: Mapping[str, Any], where: str, schema: FeatureSchema) -> dict[str, Any]:
    """Return the keys that are numbers, checked."""
    found = {}
    for key, rule in _NUMBERS.items():
        if key in plain:
            value = plain[key]
            type_fits = type(value) is int or (type(value) is float and not rule.whole)
            if not type_fits or not math.isfinite(value) or not rule.fits(value):
                raise ValueError(f"{where}{key} = {value!r}: expected {rule.expected}")
            found[key] = value
    minutes = schema.prediction_horizon * schema.step_seconds / 60
    if found.get("farthest_minutes", 0.0) > minutes:
        raise ValueError(
            f"{where}farthest_minutes = {found['farthest_minutes']!r}: expected at most "
            f"{minutes:g}, which is as far as the model forecasts"
        )
    near = found.get("nearest_minutes", AlertRules.nearest_minutes)
    far = min(found.get("farthest_minutes", AlertRules.farthest_minutes), minutes)
    tick = schema.step_seconds / 60
    last = math.floor(far / tick) * tick
    if not last:
        raise ValueError(f"{where}farthest_minutes = {far:g}: expected at least a tick, {tick:g}")
    if math.ceil(near / tick) * tick > last:
        raise ValueError(
            f"{where}nearest_minutes = {near:g}: expected at most {last:g}, the last tick warned of"
        )
    return found | {"farthest_minutes": far}


def _default_ceilings(
    schema: FeatureSchema, evaluated: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, str]]:
    """Return ceilings no file names, and where they are from."""
    ceilings, sources = {}, {}
    for metric in schema.targets:
        if metric.upper == PERCENT_BOUND:
            ceilings[metric.name], sources[metric.name] = PERCENT_THRESHOLD, BY_BOUND
        elif metric.name in evaluated:
            ceilings[metric.name] = evaluated[metric.name]
            sources[metric.name] = BY_EVALUATION
    return ceilings, sources


def _ceilings(plain: Any, where: str, schema: FeatureSchema) -> dict[str, float]:
    """Check a table of ceilings by metric."""
    if not isinstance(plain, Mapping):
        raise ValueError(f"{where}= {plain!r}: expected a table, such as cpu_percent = 90")
    bounds = {metric.name: metric for metric in schema.targets}
    for name, value in plain.items():
        if isinstance(value, Mapping):
            raise ValueError(
                f"{where}{name} is a table: expected a number; a name with a dot needs quotes, "
                'such as [server_ceilings."web.01"]'
            )
        if name not in bounds:
            raise ValueError(f"{where}{name}: no metric that is forecast; {nearest(name, bounds)}")
        low, high = bounds[name].lower, bounds[name].upper
        low, high = -math.inf if low is None else low, math.inf if high is None else high
        number = type(value) in (int, float) and math.isfinite(value)
        if not number or not low < value <= high:
            above = f" above {low:g}" if low > -math.inf else ""
            upto = f" up to {high:g}" if high < math.inf else ""
            raise ValueError(
                f"{where}{name} = {value!r}: expected a number in the metric's unit{above}{upto}"
            )
    return {name: float(value) for name, value in plain.items()}


def _ceilings_by_name(
    plain: Mapping[str, Any], key: str, where: str, schema: FeatureSchema
) -> dict[str, dict[str, float]]:
    """Check the tables of ceilings by server or profile."""
    tables = plain.get(key, {})
    if not isinstance(tables, Mapping):
        raise ValueError(f"{where}{key} = {tables!r}: expected a table [{key}.NAME] for each name")
    return {
        name: _ceilings(table, f"{where}[{key}.{name}] ", schema) for name, table in tables.items()
    }


def _exclusions(plain: Any, where: str, schema: FeatureSchema) -> tuple[Exclusion, ...]:
    """Check the list of exclusions."""
    if not isinstance(plain, list) or not all(isinstance(each, Mapping) for each in plain):
        raise ValueError(f"{where}exclude = {plain!r}: expected tables, each headed [[exclude]]")
    for number, each in enumerate(plain, 1):
        here = f"{where}[[exclude]] number {number}: "
        if not each:
            raise ValueError(f"{here}is empty: expected one of {', '.join(EXCLUSION_KEYS)}")
        for key, value in each.items():
            if key not in EXCLUSION_KEYS:
                raise ValueError(f"{here}unknown key {key!r}; {nearest(key, EXCLUSION_KEYS)}")
            if not isinstance(value, str) or not value:
                raise ValueError(f"{here}{key} = {value!r}: expected a name in quotes")
        metric = each.get("metric")
        if metric is not None and metric not in schema.target_names:
            raise ValueError(
                f"{here}metric = {metric!r}: no metric that is forecast; "
                f"{nearest(metric, schema.target_names)}"
            )
    return tuple(Exclusion(**each) for each in plain)
