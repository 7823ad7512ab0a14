"""Evaluations as a test needs them: every figure is chosen, nothing is computed."""

import math
from datetime import UTC, datetime
from typing import Any

from report.results import (
    Calibration,
    EvaluationReport,
    ForecasterScores,
    GroupScores,
    Interval,
    Latency,
    ServerScores,
)
from report.run_facts import Epoch, RunFacts
from report.scores import Scores, mean_row

METRICS = ("cpu_percent", "net_in_kbs")
NAIVES = {"last_value": (0.4, 0.5), "seasonal_naive": (0.5, 0.6), "window_quantiles": (0.25, 0.4)}
BUCKETS = ("up to 30 min", "30 min to 2 h", "2 h to 8 h")


def make_scores(metric: str, wql: float, **changes: Any) -> Scores:
    fields = {
        "mae": 2.5, "rmse": 4.0, "rmae_seasonal": 0.75, "coverage": 0.8125, "width": 9.0,
        "crossing": 0.0, "observed": 100,
    }  # fmt: skip
    return Scores(metric=metric, wql=wql, **{**fields, **changes})


def unseen(metric: str) -> Scores:
    """A metric of which nothing was observed."""
    names = ("mae", "rmse", "rmae_seasonal", "coverage", "width", "crossing")
    return make_scores(metric, math.nan, observed=0, **dict.fromkeys(names, math.nan))


def make_rows(losses: tuple[float, ...], metrics: tuple[str, ...] = METRICS, **changes: Any):
    rows = [make_scores(m, wql, **changes) for m, wql in zip(metrics, losses, strict=True)]
    return (*rows, mean_row(rows))


def make_group(model: tuple[float, ...] = (0.2, 0.3), **changes: Any) -> GroupScores:
    coverage = changes.pop("coverage", 0.8125)
    scores = {"tft": make_rows(model, coverage=coverage)}
    scores |= {name: make_rows(losses) for name, losses in NAIVES.items()}
    fields: dict[str, Any] = {
        "name": "known servers, held out", "servers": 12, "windows": 1000, "new": False,
        "validation": False, "history_hours": None, "cold_start": False, "scores": scores,
    }  # fmt: skip
    return GroupScores(**{**fields, **changes})


def make_report(
    losses: tuple[float, ...] = (0.2, 0.3), metrics: tuple[str, ...] = METRICS, **changes: Any
) -> EvaluationReport:
    """Return the report of a model that beats every naive forecast on held-out windows."""
    everyone = {"tft": losses, **{n: NAIVES[n] * (len(metrics) // 2) for n in NAIVES}}
    rows = {name: make_rows(each, metrics) for name, each in everyone.items()}
    levels = (0.1, 0.5, 0.9)
    fields: dict[str, Any] = {
        "run": "run-7", "data": "fleet.parquet", "servers_known": 12, "servers_new": 0,
        "windows": 1000, "not_finite": 0,
        "first_origin": "2026-01-01T00:00:00Z", "last_origin": "2026-02-01T00:00:00Z",
        "step_seconds": 300, "horizon": 96, "seconds": 61.25,
        "forecasters": tuple(
            ForecasterScores(name, each, dict.fromkeys(BUCKETS, each), 1.25)
            for name, each in rows.items()
        ),
        "calibration": tuple(
            Calibration(metric, levels, (0.12, 0.48, 0.91), (Interval(0.1, 0.9, 0.79, 9.0),),
                        0.7125 if metric.endswith("percent") else None)
            for metric in metrics
        ),
        "groups": (make_group(),),
        "servers": tuple(
            ServerScores(f"server{n}", False, 50, 9000, n / 10, 0.3, metrics[0]) for n in range(5)
        ),
        "latency": Latency("cpu", 1, 256, 987.6, 4.25),
    }  # fmt: skip
    return EvaluationReport(**{**fields, **changes})


def make_course(losses: tuple[float, ...]) -> tuple[Epoch, ...]:
    return tuple(Epoch(n, loss, loss, 0.003, 60.0, 150.0) for n, loss in enumerate(losses, 1))


def make_run(losses: tuple[float, ...] = (0.4, 0.3, *[0.25] * 10), **changes: Any) -> RunFacts:
    """Return the facts of a run that reached its plateau."""
    fields: dict[str, Any] = {
        "epochs": len(losses), "whole_epochs": len(losses),
        "best_epoch": 3, "first_loss": None, "best_loss": min(losses),
        "loss_unit": "in spreads of each window", "patience_ran_out": False, "out_of_time": False,
        "data_days": 30.0, "trained_days": 24.0, "num_servers": 12, "init": None,
        "validation_servers": (),
        "validated": (datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 7, tzinfo=UTC)),
        "windows_per_epoch": 4096, "parameters": 90_377, "precision": "fp32", "seed": 42,
        "hours": 0.25, "memory_mb": 790.0, "gpu_memory_mb": 0.0, "course": make_course(losses),
    }  # fmt: skip
    return RunFacts(**{**fields, **changes})
