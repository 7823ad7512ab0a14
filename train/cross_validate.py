"""Cross-validation by rolling origin: train on the past, judge on what came next, fold by fold.

folds.json             what was begun, and --resume may not change
fold-1, fold-2, ...    a run directory each
cross_validation.json  every fold's scores, their mean and spread
cross_validation.md    the same as tables
"""

import json
import os
import zlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from data.reading import read_fleet
from report.folds import CrossValidation, fold_splits, folds_markdown, judge_fold
from tft.files import write_atomically
from train.device import choose_device
from train.prepare import Fold, build_schema
from train.run_dir import CONFIG, INFO, check_free
from train.runs import open_run, read_config
from train.signals import Stopped, StopRequest
from train.trainer import TFTTrainer, check_same

PLAN, RESULT, TABLES = "folds.json", "cross_validation.json", "cross_validation.md"


def cross_validate(
    trainer: TFTTrainer,
    data: str | Path,
    folds: int,
    run_dir: str | Path | None = None,
    resume: bool = False,
    windows: int | None = 2048,
    stop: StopRequest | None = None,
) -> tuple[Path, CrossValidation]:
    """Cut a table's time span into folds + 1 equal parts; judge on each after training before it.

    Args:
        trainer: trains every fold, from fresh weights.
        data: CSV or Parquet file, or a folder of them.
        folds: at least two.
        run_dir: a new or empty directory; None: one under ./runs, named by the time.
        resume: go on in `run_dir`: folds that ended are kept, the one under way is resumed.
        windows: most windows a fold is judged on, evenly spaced; None: all of them.
        stop: asked after every step whether to save and leave.

    Returns:
        The file the result was written to, and the result.

    Raises:
        ValueError: the table, the configuration or the directory cannot be used.
        FloatingPointError: training did not stay finite.
        Stopped: on request, after saving.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:  # ranks cannot join again for a second fold
        raise ValueError("cross-validation trains in one process; start it without torchrun")
    config, say, data = trainer.config, trainer.say, Path(data)
    path = Path(run_dir or f"runs/{datetime.now(UTC):%Y%m%d-%H%M%S}")
    if not resume:
        check_free(path)
    choose_device(config.device)
    tell = trainer.teller(f"reading {data} to cut it into {folds} folds", stop)
    read = read_fleet(data, trainer.spec, progress=tell)
    splits = fold_splits(read.fleet, build_schema(read, config), folds, config.validation_servers)
    begin(path, trainer, folds, np.ascontiguousarray(read.fleet.values).data)
    results = []
    for number, split in enumerate(splits, 1):
        if stop is not None and stop.signal is not None:
            raise Stopped(stop.signal)
        run = train_fold(trainer, data, path, Fold(number, folds), stop)
        forecaster = open_run(run, config.device).forecaster
        loss = json.loads((run / INFO).read_text())["quantile_loss"]
        say(f"fold {number} of {folds}: judging")
        judged = judge_fold(number, split, forecaster, read.fleet, data.name, loss, windows)
        results.append(judged)
        say(f"fold {number} of {folds}: {judged.scores.line()}")
    result = CrossValidation(data.name, tuple(results))
    write_atomically(path / TABLES, folds_markdown(result).encode())
    write_atomically(path / RESULT, (json.dumps(result.to_dict(), indent=1) + "\n").encode())
    return path / RESULT, result


def saved_config(run_dir: Path | None, resume: bool) -> dict[str, Any] | None:
    """Return config.json of the cross-validation to resume, None if there is none.

    Raises:
        ValueError: there is nothing named to resume, or it is damaged.
    """
    if not resume:
        return None
    if run_dir is None:
        raise ValueError("--resume needs --run-dir, the cross-validation to go on with")
    run = _fold_dir(run_dir, 1)
    return read_config(run) if (run / CONFIG).exists() else None


def begin(path: Path, trainer: TFTTrainer, folds: int, values: memoryview) -> None:
    """Write down what is begun, or refuse to go on with something else.

    Beyond what a single run checks, its length must stay: folds trained longer than others could
    not be compared. So must the table: with other rows the folds would be cut elsewhere.

    Raises:
        ValueError: the directory holds something else; the message says what.
    """
    length = {"epochs": trainer.config.epochs, "max_minutes": trainer.config.max_minutes}
    plan = {"folds": folds, **length, "table_crc32": f"{zlib.crc32(values):08x}"}
    if not (path / PLAN).exists():
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ValueError(
                f"{path} holds no cross-validation to resume, {PLAN} is not there; name another "
                "--run-dir"
            )
        path.mkdir(parents=True, exist_ok=True)
        write_atomically(path / PLAN, (json.dumps(plan, indent=1) + "\n").encode())
        return
    try:
        before = dict(json.loads((path / PLAN).read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path / PLAN}: damaged ({error}); start another --run-dir") from error
    for key, value in plan.items():
        if before.get(key) != value:
            raise ValueError(
                f"{path} was begun with {key} = {before.get(key)!r}, not {value!r}; resume it as "
                "it was, or start another --run-dir"
            )
    for number in range(1, folds + 1):
        check_same(_fold_dir(path, number), trainer.config, trainer.spec)


def train_fold(
    trainer: TFTTrainer, data: Path, path: Path, fold: Fold, stop: StopRequest | None
) -> Path:
    """Train a fold, or what is left of it, and return its run directory."""
    run, name = _fold_dir(path, fold.number), f"fold {fold.number} of {fold.folds}"
    if (run / INFO).exists():
        trainer.say(f"{name}: trained before")
        return run
    trainer.say(f"{name}: training")
    return trainer.train(data, run, resume=run.exists(), stop=stop, fold=fold)


def _fold_dir(path: Path, number: int) -> Path:
    return path / f"fold-{number}"
