"""What the parts of the service found, as plain data for readers.

H horizon steps, M target metrics, Q quantiles.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from data.fleet import Fleet, FloatArray
from report.scores import SCORED_QUANTILES
from serve.ahead import is_stale
from serve.alerts import Alert
from serve.insight import Insight
from serve.outlook import ModelIdentity, Outlook
from serve.rendering import numbers, plain
from serve.scenario import WhatIf
from serve.times import utc
from tft.schema import DAY_SECONDS, FeatureSchema

LOOKED_AT = ("past", "future", "static", "attention")
INSIGHT = (
    "What the network looked at for this one forecast: how it weighted its inputs, and which past "
    "hours it attended to. Not what causes the values."
)
RESPONSE = (
    "The model's response to changed inputs, beside its forecast from what was received: not what "
    "would happen if the metrics were changed."
)


def history(fleet: Fleet) -> bytes:
    """Return the last 24 hours of a fleet of one server, or of none, as JSON."""
    step = fleet.step_seconds
    values = fleet.values[-(DAY_SECONDS // step) :]
    first = int(fleet.first_tick[0] + fleet.lengths[0]) - len(values) if len(values) else None
    head = {"first_tick": None if first is None else utc(first * step), "step_seconds": step}
    series = ",".join(
        f"{json.dumps(metric)}:{numbers(column)}"
        for metric, column in zip(fleet.metrics, values.T.tolist(), strict=True)
    )
    return plain(head)[:-1] + f',"values":{{{series}}}}}'.encode()


def alert_told(alert: Alert) -> dict[str, Any]:
    """Return an alert with its times written out."""
    first = alert.first_breach
    return asdict(alert) | {
        "state": str(alert.state),
        "since": utc(alert.since),
        "first_breach": None if first is None else utc(first),
    }


def insight_told(insight: Insight, step_seconds: int, now: float) -> dict[str, Any]:
    """Return what one forecast looked at, and whether its data are stale now."""
    groups = {group: [each._asdict() for each in getattr(insight, group)] for group in LOOKED_AT}
    return {
        "server": insight.server,
        "stale": is_stale(insight.origin, step_seconds, now),
        "origin": utc(insight.origin * step_seconds),
        **groups,
        "attention_on_history": insight.on_history,
        "what_this_is": INSIGHT,
    }


def scenario_told(found: Sequence[WhatIf], schema: FeatureSchema, now: float) -> dict[str, Any]:
    """Return forecasts as they would be, beside what they are, and whose data are stale now."""
    servers = [
        {
            "name": each.server,
            "reason": each.reason,
            "stale": is_stale(each.origin, schema.step_seconds, now),
            "origin": utc(each.origin * schema.step_seconds),
            "outside_training_range": list(each.outside_training_range),
            "metrics": []
            if each.reason is not None
            else [
                {
                    "metric": metric,
                    "unchanged": _usual(each.unchanged[:, column], schema),
                    "scenario": _usual(each.changed[:, column], schema),
                }
                for column, metric in enumerate(schema.target_names)
            ],
        }
        for each in found
    ]
    return {"what_this_is": RESPONSE, "servers": servers}


def no_outlook(schema: FeatureSchema, model: ModelIdentity) -> Outlook:
    """Return the outlook before the first one: of no server, made at no time."""
    M, H, Q = len(schema.targets), schema.prediction_horizon, len(schema.quantiles)
    return Outlook(
        model=model,
        made_at=0.0,
        step_seconds=schema.step_seconds,
        metrics=schema.target_names,
        levels=schema.quantiles,
        servers=(),
        profiles=(),
        status=(),
        reasons=(),
        origin=np.zeros(0, np.int64),
        quantiles=np.zeros((0, H, M, Q), np.float32),
        latest=np.zeros((0, M), np.float32),
        thresholds=np.zeros((0, M), np.float32),
        chance=np.zeros((0, H, M), np.float32),
    )


def _usual(forecast: FloatArray, schema: FeatureSchema) -> dict[str, list[float]]:
    """Return a metric's forecast [H, Q] by the levels readers are told."""
    levels = schema.quantiles
    return {
        f"{level:g}": list(map(_short, forecast[:, levels.index(level)].tolist()))
        for level in SCORED_QUANTILES
    }


def _short(value: float) -> float:
    """Cut a float32 to six significant digits."""
    return float(f"{value:.6g}")
