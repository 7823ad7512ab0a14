"""What Prometheus scrapes: forecasts as a few gauges per server and metric, never step by step.

The text format 0.0.4. `fleet_text` is long and changes with the outlook only: make it once for
each. `service_text` is short, and of this moment. Together they are the answer of GET /metrics.

A level is a quantile's: 0.1, 0.5 or 0.9. Prometheus keeps the label `quantile` for summaries.

What is not known has no sample: a forecast from stale data is not repeated as if it were of now,
and there are no seconds to a breach that is not forecast.

S servers, M target metrics, Q quantiles.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from data.fleet import BoolArray
from report.scores import SCORED_QUANTILES, pick_quantiles
from serve.ahead import FloatArray, look_ahead
from serve.alert_rules import AlertRules
from serve.alerts import Alert
from serve.outlook import ModelIdentity, Outlook, Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PREFIX = "fleet_tft_"
ESCAPED = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})
HELP = {
    "forecast_peak": "Highest value of the quantile of this level, over the whole horizon.",
    "breach_probability": "Probability of reaching the ceiling in the time warned of.",
    "breach_seconds": "Seconds from the last tick to a breach of the alarm probability or more.",
    "last_tick_timestamp_seconds": "Time of the last tick that a server is forecast from.",
    "alert": "1 for each alert there is, by its state: pending, firing or clearing.",
    "servers": "Servers by what the newest outlook has of them.",
    "forecast_age_seconds": "Time since the end of the newest tick that is forecast from.",
    "model_info": "1 for the model that forecasts.",
    "model_trained_until_timestamp_seconds": "Time of the first tick after the model's training.",
    "live_coverage_ratio": "Share of what came that lay in the 80 % interval forecast.",
    "expected_coverage_ratio": "Lowest and highest live coverage expected, by the evaluation.",
    "live_quantile_loss": "Weighted quantile loss of the forecasts whose time came.",
    "live_forecasts": "Forecasts that the live scores are of.",
}

Samples = Iterable[tuple[str, float]]  # labels as text, and a value
Live = Mapping[str, Mapping[str, Mapping[str, float | None] | None]]
"""By metric, then `day` or `week`: coverage, quantile_loss and forecasts, None without a score.

The loss alone is None where all that came was zero.
"""


def fleet_text(outlook: Outlook, rules: AlertRules, alerts: Sequence[Alert]) -> str:
    """Write what an outlook says of every server.

    Args:
        outlook: the newest one.
        rules: how far ahead to look, and from which probability on a breach is told the time of.
        alerts: as of this outlook.

    Raises:
        ValueError: the outlook lacks one of the quantiles 0.1, 0.5 and 0.9.
    """
    ahead, step = look_ahead(outlook, rules), outlook.step_seconds
    peaks = pick_quantiles(outlook.quantiles, outlook.levels).max(axis=1)  # [S, M, 3]
    current = np.repeat(ahead.current[:, None], len(outlook.metrics), axis=1)  # [S, M]
    likely = current & (ahead.probability >= rules.alarm_at)
    names = [
        _labels(server=server, metric=metric)
        for server in outlook.servers
        for metric in outlook.metrics
    ]
    peak = (
        (f'{labels},level="{level:g}"', value)
        for number, level in enumerate(SCORED_QUANTILES)
        for labels, value in _chosen(current, names, peaks[..., number])
    )
    last_tick = (
        (_labels(server=server), float((int(origin) - 1) * step))
        for server, origin, status in zip(
            outlook.servers, outlook.origin, outlook.status, strict=True
        )
        if status is Status.FORECAST
    )
    states = (
        (_labels(server=each.server, metric=each.metric, state=each.state), 1.0) for each in alerts
    )
    counts = ((_labels(status=each), float(outlook.status.count(each))) for each in Status)
    return (
        _family("forecast_peak", peak)
        + _family("breach_probability", _chosen(current, names, ahead.probability))
        + _family("breach_seconds", _chosen(likely, names, ahead.first * float(step)))
        + _family("last_tick_timestamp_seconds", last_tick)
        + _family("alert", states)
        + _family("servers", counts)
    )


def service_text(
    now: float,
    outlook: Outlook | None,
    model: ModelIdentity,
    live: Live,
    expected: Mapping[str, tuple[float, float]],
    counters: Mapping[str, tuple[str, float]],
) -> str:
    """Write what there is to say of the service itself.

    Args:
        now: Unix seconds, by the service's clock.
        outlook: the newest one; None before the first.
        model: the one loaded.
        live: scores of past forecasts.
        expected: by metric, the lowest and the highest coverage that is no drift.
        counters: by names such as `ticks_accepted`, what each counts and how many since the start.
    """
    age = []
    if outlook is not None and Status.FORECAST in outlook.status:
        forecast = [each is Status.FORECAST for each in outlook.status]
        age = [("", now - float(outlook.origin[forecast].max()) * outlook.step_seconds)]
    until = [("", float(model.trained_until))] if model.trained_until else []
    scores = [
        (_labels(metric=metric, window=window), score)
        for metric, windows in live.items()
        for window, score in windows.items()
        if score is not None
    ]
    bounds = [
        (_labels(metric=metric, bound=bound), value)
        for metric, limits in expected.items()
        for bound, value in zip(("lowest", "highest"), limits, strict=True)
    ]
    live_text = "".join(
        _family(
            name,
            ((labels, value) for labels, score in scores if (value := score[key]) is not None),
        )
        for name, key in (
            ("live_coverage_ratio", "coverage"),
            ("live_quantile_loss", "quantile_loss"),
            ("live_forecasts", "forecasts"),
        )
    )
    totals = "".join(
        _family(f"{name}_total", [("", float(count))], "counter", text)
        for name, (text, count) in counters.items()
    )
    return (
        _family("forecast_age_seconds", age)
        + _family("model_info", [(_labels(hash=model.hash), 1.0)])
        + _family("model_trained_until_timestamp_seconds", until)
        + live_text
        + _family("expected_coverage_ratio", bounds)
        + totals
    )


def _family(name: str, samples: Samples, kind: str = "gauge", text: str | None = None) -> str:
    """Write the samples of a metric that are finite, and nothing where there is none."""
    head = f"# HELP {PREFIX}{name} {text or HELP[name]}\n# TYPE {PREFIX}{name} {kind}\n"
    lines = [
        f"{PREFIX}{name}{{{labels}}} {value!r}\n" if labels else f"{PREFIX}{name} {value!r}\n"
        for labels, value in samples
        if math.isfinite(value)
    ]
    return head + "".join(lines) if lines else ""


def _labels(**labels: str) -> str:
    """Write labels, their values escaped."""
    return ",".join(f'{name}="{value.translate(ESCAPED)}"' for name, value in labels.items())


def _chosen(where: BoolArray, names: Sequence[str], values: FloatArray) -> Samples:
    """Return values [S, M] where they are chosen, each with its labels."""
    flat = values.ravel().tolist()
    return [(names[place], flat[place]) for place in np.flatnonzero(where).tolist()]
