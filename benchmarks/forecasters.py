"""Train the project's forecaster and forecast windows with it, in a process of its own.

`python -m benchmarks.forecasters '{"folder": "DIR", "out": "FILE.npz", ...}'` prints JSON.
"""

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.fleet import FloatArray, IntArray
from data.reading import read_fleet
from data.windows import WindowStore
from report.scores import SCORED_QUANTILES, pick_quantiles
from tft.bundle import load_forecaster
from tft.forecaster import Forecaster
from train import TFTTrainer, TrainConfig
from train.run_dir import INFO, MODEL_DIR

BATCH_SIZE = 256


@dataclass(frozen=True)
class Task:
    """One training and its forecasts."""

    table: str
    """Rows that may be trained on."""
    data: str
    """The whole table, of which a forecast sees what lies before its origin."""
    windows: str
    """.npz of the windows' `server` names and `origin` ticks."""
    out: str
    """.npz to write: `forecast` [n, H, M, Q], the scored quantiles in raw units."""
    settings: dict[str, Any]
    """Configuration keys."""


def train_and_forecast(task: Task) -> dict[str, Any]:
    """Train on a table, forecast, write the forecasts, and say how the training went."""
    started = time.monotonic()
    config = TrainConfig.from_dict(task.settings)
    with tempfile.TemporaryDirectory() as folder:
        run = TFTTrainer(config).train(task.table, Path(folder) / "run")
        info = json.loads((run / INFO).read_text())
        forecaster = load_forecaster(run / MODEL_DIR)
    trained = time.monotonic()
    with np.load(task.windows) as windows:
        server, origin = windows["server"], windows["origin"]
    forecast = forecast_windows(forecaster, task.data, server.tolist(), origin)
    np.savez(task.out, forecast=forecast)
    return {
        "train_seconds": trained - started,
        "forecast_seconds": time.monotonic() - trained,
        **{key: info[key] for key in ("epochs", "windows_per_epoch", "model_parameters")},
        "best_epoch": info["convergence"]["best_epoch"],
    }


def forecast_windows(
    forecaster: Forecaster, data: str | Path, servers: list[str], origin: IntArray
) -> FloatArray:
    """Forecast windows of a table, the scored quantiles only, [n, H, M, Q].

    Args:
        forecaster: in evaluation mode.
        data: the whole table.
        servers: n names.
        origin: [n] absolute ticks, the first to forecast.
    """
    fleet = read_fleet(data, schema=forecaster.schema).fleet
    numbers = {name: number for number, name in enumerate(fleet.servers)}
    server = np.array([numbers[name] for name in servers])
    store = WindowStore(fleet, forecaster.schema, known_servers=forecaster.facts.servers)
    parts = []
    for start in range(0, len(server), BATCH_SIZE):
        some = slice(start, start + BATCH_SIZE)
        quantiles = forecaster.forecast(store.gather(server[some], origin[some])).numpy()
        parts.append(pick_quantiles(quantiles, forecaster.schema.quantiles, SCORED_QUANTILES))
    return np.concatenate(parts)


if __name__ == "__main__":
    print(json.dumps(train_and_forecast(Task(**json.loads(sys.argv[1])))))
