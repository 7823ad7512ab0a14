"""Compare choices of training at equal epochs: `python -m benchmarks.training STUDY`.

Every arm of a study is trained with the same seeds on the same tables, and compared by its best
validation loss; NOTES.md says what came out. Trainings run side by side, one thread each: losses
are compared, not times.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
from tqdm import tqdm

from benchmarks.machine import measured_on
from tft.files import write_atomically
from train.commands import BUILT_IN, built_in_fleet

RATES = (0.0003, 0.001, 0.003, 0.01, 0.03)
STUDIES: dict[str, dict[str, dict[str, Any]]] = {
    "learning-rate": {
        "suggested": {"auto_lr_find": True},
        **{f"{rate:g}": {"learning_rate": rate} for rate in RATES},
    },
    "averaging": {"averaged": {}, "as they are": {"ema_decay": None}},
    "fast-path": {"hand-derived": {}, "readable": {"fast_path": False}},
    "precision": {name: {"precision": name} for name in ("fp32", "bf16", "fp16")},
}


@dataclass(frozen=True)
class Job:
    """One training."""

    data: str
    arm: str
    seed: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """What a training gave."""

    data: str
    arm: str
    seed: int
    learning_rate: float
    """At the start."""
    train_losses: list[float]
    """Of every epoch."""
    validation_losses: list[float]

    @property
    def best(self) -> float:
        """The best epoch's validation loss."""
        return min(self.validation_losses)


def train(job: Job) -> Trained:
    """Train once, in a directory that is not kept."""
    import torch

    from train import TFTTrainer, TrainConfig

    torch.set_num_threads(1)
    config = TrainConfig(**job.settings, random_seed=job.seed)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)  # the study has a progress bar of its own
        run = TFTTrainer(config).train(job.data, Path(folder) / "run")
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        info = json.loads((run / "training_info.json").read_text())
    return Trained(
        job.data,
        job.arm,
        job.seed,
        info["learning_rate"],
        [line["train_loss"] for line in lines],
        [line["val_loss"] for line in lines],
    )


def train_all(jobs: list[Job]) -> Iterator[Trained]:
    """Train side by side, a job per core, yielding what is done."""
    os.environ["OMP_NUM_THREADS"] = "1"
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(train, job) for job in jobs]):
            yield done.result()


def table(data: str, results: list[Trained]) -> list[str]:
    """Return a table's lines: an arm's mean and spread, and its paired difference to the first."""
    arms = list(dict.fromkeys(result.arm for result in results))
    first = {result.seed: result.best for result in results if result.arm == arms[0]}
    lines = [
        f"{label(data)}: best validation loss, {len(first)} seeds",
        f"{'arm':<16}{'mean':>9}{'spread':>9}{f'minus {arms[0]}':>18}{'spread':>9}   rates",
    ]
    for arm in arms:
        here = [result for result in results if result.arm == arm]
        losses = [result.best for result in here]
        minus = [result.best - first[result.seed] for result in here]
        rates = ", ".join(sorted({f"{result.learning_rate:.2g}" for result in here}))
        lines.append(
            f"{arm:<16}{mean(losses):>9.4f}{spread(losses):>9.4f}{mean(minus):>18.4f}"
            f"{spread(minus):>9.4f}   {rates}"
        )
    return lines


def label(data: str) -> str:
    """Name a table in records: they hold no paths."""
    return "built-in" if data == str(BUILT_IN) else Path(data).stem


def spread(values: list[float]) -> float:
    """Return the standard deviation, 0 of a single value."""
    return stdev(values) if len(values) > 1 else 0.0


@click.command()
@click.argument("study", type=click.Choice(list(STUDIES)))
@click.option("--data", help="A table to train on besides the built-in fleet.")
@click.option("--target", help="Its columns to forecast, a,b,c.")
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=8, show_default=True)
@click.option("--windows", type=click.IntRange(1), default=1024, show_default=True, help="An epoch")
@click.option("--arms", help="Only these, a;b;c; the first is compared with.")
@click.option("--json", "out", type=click.Path(path_type=Path), help="Keep the record here.")
def main(
    study: str,
    data: str | None,
    target: str | None,
    seeds: int,
    epochs: int,
    windows: int,
    arms: str | None,
    out: Path | None,
) -> None:
    """Train every arm of STUDY with every seed and compare their best validation losses."""
    chosen = arms.split(";") if arms else list(STUDIES[study])
    common = {"epochs": epochs, "windows_per_epoch": windows, "validation_windows": 512}
    tables: dict[str, dict[str, Any]] = {str(built_in_fleet()): {}}
    if data is not None:
        tables[data] = {"target_metrics": tuple(target.split(","))} if target else {}
    jobs = [
        Job(path, arm, seed, {**common, **keys, **STUDIES[study][arm]})
        for seed in range(1, seeds + 1)
        for path, keys in tables.items()
        for arm in chosen
    ]
    results: list[Trained] = []
    for result in tqdm(train_all(jobs), total=len(jobs), desc=study, unit="training"):
        results.append(result)
        if out is not None:
            rows = [{**asdict(r), "data": label(r.data)} for r in results]
            record = {"on": measured_on(), "study": study, **common, "trainings": rows}
            write_atomically(out, (json.dumps(record, indent=1) + "\n").encode())
    results.sort(key=lambda result: (chosen.index(result.arm), result.seed))
    for path in tables:
        click.echo("\n".join(table(path, [r for r in results if r.data == path])) + "\n")


if __name__ == "__main__":
    main()
