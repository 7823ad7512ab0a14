"""Judge every forecaster on the same windows: `python -m benchmarks.accuracy [--peers]`.

The project's forecaster, the naive ones and, where asked for, two peers: LightGBM on summaries of
the window (about a minute) and pytorch-forecasting's TFT (as many minutes as the project's). All
that learn do so on the same rows (`benchmarks.holdout`), once for every seed, each in a process of
its own. Time counts from reading the rows to the last step, without imports and forecasting.

n windows, H horizon steps, M targets, Q quantiles.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from tqdm import tqdm

from benchmarks.accuracy_text import as_text
from benchmarks.holdout import (
    Windows,
    cutoff_tick,
    gather,
    held_out_servers,
    judged_windows,
    training_fleet,
    write_training_table,
)
from benchmarks.machine import measured_on
from benchmarks.peer_data import WINDOWS, save_fleet, save_windows, windows_of
from benchmarks.speed import measure
from benchmarks.training import label
from data.fleet import FloatArray
from data.reading import TableSpec, read_fleet
from report.naive import NAIVE_FORECASTS
from report.scores import SCORED_QUANTILES, ScoreSums
from tft.files import write_atomically
from tft.schema import Metric
from train import TrainConfig
from train.commands import built_in_fleet
from train.config import parse_setting, split_names

Row = dict[str, Any]
PROJECT, LIGHTGBM, PEER_TFT = "tft", "lightgbm", "pytorch_forecasting"
MODULES = {PROJECT: "forecasters", LIGHTGBM: "peer_lightgbm", PEER_TFT: "peer_tft"}
OPTIONS = {"target_metrics": "--target", "random_seed": "--seeds", "max_minutes": "--minutes"}
PEER_LENGTHS = {"prediction_horizon": 96}


@dataclass(frozen=True)
class Judged:
    """What forecasters are judged on: the windows of all groups, one group after the other."""

    targets: tuple[Metric, ...]
    step_seconds: int
    cutoff: int
    """Tick at which training ends."""
    held_out: tuple[str, ...]
    groups: dict[str, Windows]
    history: FloatArray  # [n, a day, M] targets
    came: FloatArray  # [n, H, M]

    def scores(self, forecast: FloatArray) -> dict[str, list[Row]]:
        """Score a forecast [n, H, M, Q] group by group: a row per target, then their mean."""
        names = [metric.name for metric in self.targets]
        rows, start = {}, 0
        for group, windows in self.groups.items():
            part = slice(start, start := start + len(windows.origin))
            horizon = self.came.shape[1]
            sums = ScoreSums(names, SCORED_QUANTILES, horizon, self.step_seconds)
            sums.add(forecast[part], self.came[part])
            rows[group] = [row.to_dict() for row in sums.rows()]
        return rows

    def within_bounds(self, forecast: FloatArray) -> FloatArray:
        """Clip a peer's forecast to what its metrics can be, as the project's is."""
        lower = [-np.inf if metric.lower is None else metric.lower for metric in self.targets]
        upper = [np.inf if metric.upper is None else metric.upper for metric in self.targets]
        return np.clip(forecast, np.array(lower)[:, None], np.array(upper)[:, None])


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Table.  [default: built-in fleet]")
@click.option("--target", help="Its columns to forecast, a,b,c.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=15, show_default=True)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option(
    "--windows", type=click.IntRange(1), default=2000, show_default=True,
    help="Most to judge on, of known machines and of ones never seen.",
)  # fmt: skip
@click.option(
    "--peers", is_flag=False, flag_value=sys.executable, metavar="[PYTHON]",
    help="Run the peers too, under another Python if theirs is another.",
)  # fmt: skip
@click.option(
    "--jobs", type=click.IntRange(1), default=1, show_default=True,
    help="Trainings side by side; each has its share of the cores.",
)  # fmt: skip
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write the record.")
@click.option("--name", help="Of the table in the record.  [default: its file's]")
@click.option("--set", "pairs", multiple=True, help="key=value, any configuration key.")
def accuracy(
    data: Path | None, target: str | None, minutes: float, seeds: int, windows: int,
    peers: str | None, jobs: int, record: Path | None, name: str | None, pairs: Sequence[str],
) -> None:  # fmt: skip
    """Train every forecaster on the same rows and judge it on the same windows."""
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)  # now, not after an hour of work
    settings = chosen_settings(pairs, target, minutes)
    config = TrainConfig.from_dict(settings)
    if peers is not None:
        check_peers(peers, config)
    data = data or built_in_fleet()
    threads = max(1, torch.get_num_threads() // jobs)
    with tempfile.TemporaryDirectory() as folder:
        judged = prepare(data, config, windows, Path(folder))
        content = {
            "on": measured_on(), "data": name or label(str(data)), "minutes": minutes,
            "seeds": seeds, "jobs": jobs, "threads_each": threads, "settings": settings,
            **described(judged), "results": naive_results(judged),
        }  # fmt: skip
        todo = jobs_of(data, Path(folder), settings, seeds, minutes, peers, threads)
        for result in tqdm(run_all(todo, judged, jobs), total=len(todo), unit="training"):
            content["results"].append(result)
            if record is not None:  # what is done is kept, should a later one fail
                write_atomically(record, (json.dumps(content, indent=1) + "\n").encode())
    click.echo(as_text(content))


def chosen_settings(pairs: Sequence[str], target: str | None, minutes: float) -> Row:
    """Return the configuration keys of every seed's training, refusing what options say."""
    try:
        changed = dict(parse_setting(pair) for pair in pairs)
        for key in OPTIONS.keys() & changed.keys():
            raise ValueError(f"{key} is set by {OPTIONS[key]}")
        settings = {"epochs": None, "max_minutes": minutes, **changed}
        if target is not None:
            settings["target_metrics"] = split_names(target)
        TrainConfig.from_dict(settings)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--set, --target") from error
    return settings


def check_peers(python: str, config: TrainConfig) -> None:
    """Refuse, before any work, peers that cannot be imported or compared."""
    for key, needed in PEER_LENGTHS.items():
        if getattr(config, key) != needed:
            raise click.UsageError(f"--peers needs {key} = {needed}, got {getattr(config, key)}")
    wanted = "import lightgbm, lightning, pytorch_forecasting"
    try:
        done = subprocess.run(
            [python, "-W", "ignore", "-c", wanted], capture_output=True, text=True
        )
    except OSError as error:
        raise click.BadParameter(f"{error}; expected a Python", param_hint="--peers") from error
    if done.returncode != 0:
        why = (done.stderr.strip().splitlines() or ["it failed"])[-1]
        raise click.BadParameter(
            f"{python} cannot {wanted} ({why}); install the extra `peers`, or name a Python that "
            "has it",
            param_hint="--peers",
        )


def prepare(data: Path, config: TrainConfig, most: int, folder: Path) -> Judged:
    """Read the table and write to a folder what forecasters are given."""
    spec = TableSpec(targets=config.target_metrics)
    read = read_fleet(data, spec)
    fleet, targets, horizon = read.fleet, read.targets, config.prediction_horizon
    held_out, cutoff = held_out_servers(fleet), cutoff_tick(fleet)
    groups = judged_windows(fleet, len(targets), horizon, cutoff, most)
    every = Windows(*(np.concatenate(parts) for parts in zip(*groups.values(), strict=True)))
    history, came = gather(fleet, every, horizon)
    write_training_table(data, spec, held_out, cutoff, folder / "training")
    save_fleet(training_fleet(fleet, held_out, cutoff), folder)
    save_windows(windows_of(fleet, *every, history, horizon, len(targets)), folder)
    M = len(targets)
    return Judged(
        targets, fleet.step_seconds, cutoff, held_out, groups, history[:, :, :M], came[:, :, :M]
    )


def described(judged: Judged) -> Row:
    """Return what is judged on, for the record."""
    moment = np.datetime64(judged.cutoff * judged.step_seconds, "s")
    return {
        "targets": [metric.name for metric in judged.targets],
        "cutoff": f"{moment}Z",
        "held_out": judged.held_out,
        "windows": {group: len(windows.origin) for group, windows in judged.groups.items()},
        "servers": {
            group: len(np.unique(windows.server)) for group, windows in judged.groups.items()
        },
    }


def naive_results(judged: Judged) -> list[Row]:
    """Score the naive forecasts."""
    horizon, day = judged.came.shape[1], judged.history.shape[1]
    return [
        {
            "forecaster": name,
            "seed": None,
            "scores": judged.scores(naive(judged.history, horizon, SCORED_QUANTILES, day)),
        }
        for name, naive in NAIVE_FORECASTS.items()
    ]


@dataclass(frozen=True)
class Job:
    """One training."""

    forecaster: str
    seed: int
    out: Path
    """.npz of its forecasts."""
    run: "partial[Row]"


def jobs_of(
    data: Path, folder: Path, settings: Row, seeds: int, minutes: float, peers: str | None,
    threads: int,
) -> list[Job]:  # fmt: skip
    """List the trainings, seed by seed."""
    jobs = []
    for seed in range(1, seeds + 1):
        for name in MODULES if peers is not None else (PROJECT,):
            out = folder / f"{name}-{seed}.npz"
            task: Row = {"folder": str(folder), "out": str(out), "seed": seed}
            if name == PROJECT:
                task = {
                    "table": str(folder / "training"), "data": str(data.resolve()),
                    "windows": str(folder / WINDOWS), "out": str(out),
                    "settings": {**settings, "random_seed": seed},
                }  # fmt: skip
            elif name == PEER_TFT:
                task["minutes"] = minutes
            python = sys.executable if name == PROJECT or peers is None else peers
            run = partial(measure, MODULES[name], task, python, threads)
            jobs.append(Job(name, seed, out, run))
    return jobs


def run_all(todo: list[Job], judged: Judged, side_by_side: int) -> Iterator[Row]:
    """Train, so many side by side, yielding results as they come."""
    with ThreadPoolExecutor(side_by_side) as pool:
        futures = {pool.submit(job.run): job for job in todo}
        try:
            for future in as_completed(futures):
                job, facts = futures[future], future.result()
                with np.load(job.out) as file:
                    forecast = file["forecast"]
                if job.forecaster != PROJECT:
                    forecast = judged.within_bounds(forecast)
                scores = judged.scores(forecast)
                yield {
                    "forecaster": job.forecaster, "seed": job.seed, "facts": facts,
                    "scores": scores,
                }  # fmt: skip
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


if __name__ == "__main__":
    accuracy()
