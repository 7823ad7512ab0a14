"""What there is to say of a model: its facts, and what the run it came from measured of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from serve.live_scores import Evaluated, evaluated_scores
from serve.measured import measured
from serve.models import MODEL_DIR, LoadedModel
from serve.times import utc
from tft.bundle import MANIFEST

FILE = Path("evaluation") / "evaluation.json"  # of a run directory, as `evaluate` writes it
SCORES = ("wql", "mae", "coverage", "observed")


class About(NamedTuple):
    """What is said of a model, made once."""

    facts: dict[str, Any]
    evaluation: dict[str, Any] | None
    """Summed up; None: the model was never evaluated."""
    alerts: dict[str, Any] | None
    """How alerts did in the evaluation."""
    scores: dict[str, Evaluated]
    """By metric, as evaluated; empty: unknown."""


def about(model: LoadedModel, alarm_at: float) -> About:
    """Say what a model is, and what was measured of it.

    Args:
        model: in its folder.
        alarm_at: probability that raises an alert by the rules.

    Raises:
        ValueError: its evaluation cannot be read.
    """
    evaluation = read_evaluation(model.folder)
    if evaluation is None:
        return About(_facts(model), None, None, {})
    alerts, scores = measured(evaluation, alarm_at), evaluated_scores(evaluation)
    return About(_facts(model), summary(evaluation), alerts, scores)


def bundle_of(run: Path) -> Path:
    """Return the folder of the model of a run directory, or of a model alone.

    Raises:
        ValueError: there is none.
    """
    for folder in (run, run / MODEL_DIR):
        if (folder / MANIFEST).is_file():
            return folder
    raise ValueError(f"{run}: no model in it; expected a run directory, as `train` prints it")


def read_evaluation(bundle: Path) -> dict[str, Any] | None:
    """Return the evaluation beside a model, None where it was never evaluated.

    Args:
        bundle: folder of the model, in its run directory.

    Raises:
        ValueError: there is one, but it cannot be read.
    """
    path = bundle.resolve().parent / FILE
    if bundle.resolve().name != MODEL_DIR or not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        summary(content)
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(
            f"{path}: not what `evaluate` writes ({error!r}); evaluate again, or remove it"
        ) from error
    return dict(content)


def summary(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return on what a model was evaluated, and its scores beside those of naive forecasts."""
    model, *naive = evaluation["forecasters"]
    metrics = {
        row["metric"]: {key: row[key] for key in SCORES}
        | {"naive_wql": {other["name"]: other["rows"][place]["wql"] for other in naive}}
        for place, row in enumerate(model["rows"])
    }
    keys = ("data", "windows", "servers_known", "servers_new", "first_origin", "last_origin")
    return {key: evaluation[key] for key in keys} | {"metrics": metrics}


def _facts(model: LoadedModel) -> dict[str, Any]:
    schema, folder = model.forecaster.schema, model.folder.resolve()
    until = model.identity.trained_until
    return {
        "name": folder.parent.name if folder.name == MODEL_DIR else folder.name,
        "hash": model.identity.hash,
        "trained_until": utc(until) if until else None,
        "trained_servers": len(model.forecaster.facts.servers),
        "parameters": sum(each.numel() for each in model.forecaster.network.parameters()),
        "metrics": [
            {"name": metric.name, "lower": metric.lower, "upper": metric.upper, "role": role}
            for role, metrics in (("target", schema.targets), ("observed", schema.observed))
            for metric in metrics
        ],
        "quantiles": list(schema.quantiles),
        "context": schema.context_length,
        "horizon": schema.prediction_horizon,
        "step_seconds": schema.step_seconds,
    }
