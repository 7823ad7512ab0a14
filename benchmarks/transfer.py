"""What a forecaster is worth beyond its training: `python -m benchmarks.transfer`.

Profile: a quarter of each profile's servers is held out of training, then forecast with their
profile and with it hidden. Init: epochs that starting from another fleet's forecaster saves on a
fleet of ten servers. Missing: ticks of history taken away at random and in blocks. History: servers
never seen, from their first hours. Losses are weighted quantile losses (mean over metrics, lower is
better) beside those of flat quantiles of the same history, on windows nothing was trained on.

Trainings run side by side, one thread each: losses and epochs are compared, not times.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import click
import torch
from tqdm import tqdm

from benchmarks.machine import measured_on
from benchmarks.training import label, spread
from benchmarks.worlds import FLAT, MODEL, held_out, split_table, study
from data.reading import TableSpec, read_fleet
from data.synthetic import FleetSpec, write_fleet
from report.scores import MEAN
from tft.files import write_atomically
from train import TFTTrainer, TrainConfig
from train.commands import built_in_fleet

SMALL_FLEET = FleetSpec(
    seed=1042, num_ml_compute=1, num_database=2, num_web_api=3, num_conductor_mgmt=1,
    num_data_ingest=1, num_risk_analytics=1, num_generic=1,
)  # fmt: skip
SIZES = {"epochs": 8, "windows_per_epoch": 1024, "validation_windows": 512}
QUICK = {"epochs": 2, "windows_per_epoch": 256, "validation_windows": 128}


@dataclass(frozen=True)
class Tables:
    """What is trained on."""

    whole: str
    """Some of its servers are held out."""
    source: str
    """The fleet that training starts from elsewhere."""
    small: str
    """Ten other servers."""


def train(data: str, run: str, settings: dict[str, Any]) -> list[float]:
    """Train once, and return the validation loss before training and of every epoch."""
    torch.set_num_threads(1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # the study has a progress bar of its own
        TFTTrainer(TrainConfig(**settings)).train(data, run)
    lines = (Path(run) / "metrics.jsonl").read_text().splitlines()
    first = json.loads((Path(run) / "training_info.json").read_text())["convergence"][
        "first_val_loss"
    ]
    return [math.inf if first is None else first, *(json.loads(line)["val_loss"] for line in lines)]


def begin_seed(pool: Executor, folder: Path, tables: Tables, seed: int, keys: dict[str, Any],
               servers: tuple[str, ...]) -> dict[str, Future[list[float]]]:  # fmt: skip
    """Begin the trainings that need no other one."""
    settings = {**keys, "random_seed": seed}
    jobs = {
        "whole": (tables.whole, {**settings, "validation_servers": servers}),
        "source": (tables.source, settings),
        "scratch": (tables.small, settings),
    }
    return {
        name: pool.submit(train, data, str(folder / f"{name}-{seed}"), chosen)
        for name, (data, chosen) in jobs.items()
    }


def measure(folder: Path, tables: Tables, seeds: int, keys: dict[str, Any], windows: int,
            servers: Callable[[int], tuple[str, ...]]) -> list[dict[str, Any]]:  # fmt: skip
    """Train and score everything, a process a core; one record a seed."""
    os.environ["OMP_NUM_THREADS"] = "1"
    records = []
    with (
        ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool,
        tqdm(total=5 * seeds, desc="transfer", unit="job") as bar,
    ):

        def counted(future: Future[Any]) -> Future[Any]:
            future.add_done_callback(lambda _: bar.update())
            return future

        numbers = range(1, seeds + 1)
        begun = {n: begin_seed(pool, folder, tables, n, keys, servers(n)) for n in numbers}
        for futures in begun.values():
            for future in futures.values():
                counted(future)
        later = {}
        for seed, futures in begun.items():
            futures["whole"].result()
            model = str(folder / f"whole-{seed}" / "model")
            scored = counted(pool.submit(study, model, tables.whole, seed, windows))
            futures["source"].result()
            settings = {**keys, "random_seed": seed, "init": str(folder / f"source-{seed}")}
            init = pool.submit(train, tables.small, str(folder / f"init-{seed}"), settings)
            later[seed] = scored, counted(init)
        for seed, (scored, init) in later.items():
            losses = {"scratch": begun[seed]["scratch"].result(), "init": init.result()}
            records.append({"seed": seed, **scored.result(), "init": epochs_saved(**losses)})
    return records


def epochs_saved(scratch: list[float], init: list[float]) -> dict[str, Any]:
    """Compare two trainings by the epochs each takes to the first one's best validation loss.

    Both begin with the loss before training, so 0 epochs is as good as that before any.
    """
    goal = min(scratch)
    return {
        "goal": goal,
        "scratch_epochs": scratch.index(goal),
        "init_epochs": next((n for n, loss in enumerate(init) if loss <= goal), None),
        "scratch_losses": scratch,
        "init_losses": init,
    }


def score_lines(records: list[dict[str, Any]], part: str) -> list[str]:
    """Lay out a part's worlds: the mean over seeds (and its spread) beside flat quantiles."""
    lines = [f"{'':<16}{'tft':>8}{'spread':>9}{'flat':>8}{'better by':>11}"]
    for world in records[0][part]:
        here = [record[part][world] for record in records]
        ours, flat = ([scores[who][MEAN] for scores in here] for who in (MODEL, FLAT))
        if None in ours:
            lines.append(f"{world:<16}a forecast was not finite")
            continue
        lines.append(
            f"{world:<16}{mean(ours):>8.4f}{spread(ours):>9.4f}{mean(flat):>8.4f}"
            f"{1 - mean(ours) / mean(flat):>11.1%}"
        )
    return lines


def gain_line(records: list[dict[str, Any]]) -> str:
    """Say what the profile gains, paired by seed."""
    gains = [
        1 - record["profile"]["known"][MODEL][MEAN] / record["profile"]["hidden"][MODEL][MEAN]
        for record in records
    ]
    each = ", ".join(f"{gain:.1%}" for gain in gains)
    return f"gain of the profile: {mean(gains):.1%} of the loss (by seed: {each})"


def init_lines(records: list[dict[str, Any]]) -> list[str]:
    """Lay out the epochs that --init takes, seed by seed."""
    lines = [
        f"{'seed':<6}{'goal':>8}{'scratch':>9}{'--init':>8}{'before, first epoch of each':>31}"
    ]
    for record in records:
        row = record["init"]
        taken = "never" if row["init_epochs"] is None else row["init_epochs"]
        first = ", ".join(
            f"{row[which][0]:.4f} {row[which][1]:.4f}"
            for which in ("scratch_losses", "init_losses")
        )
        lines.append(
            f"{record['seed']:<6}{row['goal']:>8.4f}{row['scratch_epochs']:>9}{taken:>8}{first:>31}"
        )
    return lines


def as_text(records: list[dict[str, Any]]) -> str:
    """Write every part as a table."""
    parts = []
    if all("profile" in record for record in records):
        parts += ["servers never seen, their profile known or hidden"]
        parts += [*score_lines(records, "profile"), gain_line(records), ""]
    parts += ["epochs to the best validation loss from scratch, a fleet of ten servers"]
    parts += [*init_lines(records), "", "ticks of history missing, servers trained on"]
    parts += [*score_lines(records, "missing"), "", "servers never seen, from so much history"]
    return "\n".join([*parts, *score_lines(records, "history")])


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="[default: the built-in fleet]")
@click.option("--target", help="Its columns to forecast, a,b,c.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--quick", is_flag=True, help="One seed, hardly trained: to see that it runs.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Keep the record here.")
def main(data: Path | None, target: str | None, seeds: int, quick: bool, out: Path | None) -> None:
    """Measure transfer to new servers, new fleets and poor histories."""
    sizes, windows = (QUICK, 64) if quick else (SIZES, 512)
    # Every training takes every epoch.
    keys: dict[str, Any] = {**sizes, "early_stopping_patience": 1_000_000}
    if target is not None:
        keys["target_metrics"] = tuple(target.split(","))
    spec = TableSpec(targets=keys["target_metrics"]) if target is not None else TableSpec()
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        whole = data or built_in_fleet()
        fleet = read_fleet(whole, spec).fleet
        if data is None:
            small = write_fleet(SMALL_FLEET, folder / "small")
            tables = Tables(str(whole), str(whole), str(small))
        else:
            tables = Tables(str(whole), *map(str, split_table(fleet, 10, folder)))
        records = measure(
            folder, tables, 1 if quick else seeds, keys, windows, partial(held_out, fleet)
        )
    if out is not None:
        content = {"on": measured_on(), "data": label(str(whole)), **sizes, "seeds": records}
        write_atomically(out, (json.dumps(content, indent=1) + "\n").encode())
    click.echo(as_text(records))


if __name__ == "__main__":
    main()
