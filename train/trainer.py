"""From a table to a trained run directory."""

import json
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.reading import TableSpec
from tft.bundle import load_forecaster
from train.calibrate import CalibrationResult
from train.checkpoint import load_checkpoint, newest_checkpoint
from train.config import TrainConfig, first_difference
from train.device import choose_device, deterministic_kernels
from train.lock import check_unused
from train.loop import FitResult, fit
from train.lr_find import RangeTest, lr_range_test
from train.prepare import Fold, Prepared, prepare
from train.ranks import ALONE, Ranks, joined
from train.record import resident_memory_mb
from train.run_dir import CONFIG, DATA, INFO, MODEL_DIR, Bystander, RunDirectory, check_free
from train.runs import read_config
from train.signals import Stopped, StopRequest
from train.state import TrainState, seed_rank
from train.step import TrainLoader

TELL_SECONDS = 3.0  # between two reports of progress


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _silence(line: str) -> None:
    """Say nothing: another rank speaks."""


@dataclass
class TFTTrainer:
    """Reads a table, trains a forecaster on it, and leaves a run directory."""

    config: TrainConfig = field(default_factory=TrainConfig)
    """How to train; its target_metrics win over the spec's targets."""
    spec: TableSpec = field(default_factory=TableSpec)
    """How to read the table."""
    say: Callable[[str], None] = _to_stderr
    """Told, line by line, what is going on."""

    def __post_init__(self) -> None:
        """Make the targets the configuration's."""
        self.spec = replace(self.spec, targets=self.config.target_metrics)

    def train(
        self,
        data: str | Path,
        run_dir: str | Path | None = None,
        find_lr: bool = False,
        resume: bool = False,
        checkpoint: str | Path | None = None,
        stop: StopRequest | None = None,
        fold: Fold | None = None,
    ) -> Path:
        """Train on a table; started by torchrun, together with the other ranks.

        Args:
            data: CSV or Parquet file, or a folder of them.
            run_dir: a new or empty directory; None: one under ./runs, named by the time.
            find_lr: start from an LR range test's suggestion, like `auto_lr_find`.
            resume: go on from the newest whole checkpoint in `run_dir`, if there is one.
            checkpoint: with `resume`, go on from this one instead.
            stop: asked after every step whether to save and leave.
            fold: train and validate on this part of a cross-validation.

        Returns:
            The run directory.

        Raises:
            ValueError: the table, the configuration or the checkpoint cannot be used.
            FloatingPointError: training did not stay finite.
            ChildProcessError: a loader's worker or another rank was lost.
            Stopped: on request, after saving.
        """
        began = datetime.now(UTC)
        config = replace(self.config, auto_lr_find=find_lr or self.config.auto_lr_find)
        device = choose_device(config.device)
        with joined(device) as ranks, deterministic_kernels(config.deterministic):
            say = self.say if ranks.first else _silence
            path = ranks.share(Path(run_dir or f"runs/{began:%Y%m%d-%H%M%S}"))
            if ranks.first:
                check_unused(path)
            if resume:
                check_same(path, config, self.spec)
            elif ranks.first:
                check_free(path)
            if run_dir is None:
                say(f"run directory: {path}")
            ready = replace(self, config=config, say=say)
            return ready._train(Path(data), path, resume, checkpoint, stop, fold, ranks, began)

    def _train(
        self,
        data: Path,
        path: Path,
        resume: bool,
        checkpoint: str | Path | None,
        stop: StopRequest | None,
        fold: Fold | None,
        ranks: Ranks,
        began: datetime,
    ) -> Path:
        """Train as one of the ranks."""
        config, started = self.config, time.monotonic()
        begun = resume and ranks.share(self._begun(path, checkpoint))
        prepared = self.prepare(data, ranks, fold, stop, begun)
        with ExitStack() as stack:
            run = None
            if ranks.first:
                run = stack.enter_context(
                    closing(RunDirectory(path, config, resume, prepared.examples))
                )
            saved = self._saved(path, ranks, checkpoint) if resume else None
            state = self._state(prepared, saved, ranks, stop)
            state.began = started
            if run is not None:
                run.go_on_from(state)
                spec = {"path": str(data.resolve()), "spec": asdict(self.spec)}
                run.write_json(CONFIG, {"train": config.to_dict(), "data": spec})
                run.write_text(DATA, "\n".join(prepared.read.summary.lines()) + "\n")
            deadline = started + 60 * config.max_minutes if config.max_minutes else math.inf
            if fold is not None:  # folds that had more time than others could not be compared
                deadline -= state.seconds_before
            loaders = prepared.train_loader, prepared.validation_loader
            result = fit(state, *loaders, config, run or Bystander(), stop, deadline)
            if run is not None:
                calibration = None
                if config.calibrate and fold is None:  # a fold is judged where it would calibrate
                    calibration = calibrate_best(run, prepared)
                    self.say(calibration.line())
                run.log_result(result.learning_rate, final_figures(result, state.seconds))
                info = training_info(prepared, config, result, calibration, began, state.seconds)
                run.write_json(INFO, info | {"ranks": ranks.size})
        self.say(closing_line(prepared.train_loader, result, state.seconds))
        return path

    def _begun(self, path: Path, checkpoint: str | Path | None) -> bool:
        """Tell whether there is a checkpoint to go on from, whole or not."""
        folder = path / self.config.checkpoints_dir
        return checkpoint is not None or any(folder.glob("step-*.pt"))

    def _saved(
        self, path: Path, ranks: Ranks, checkpoint: str | Path | None
    ) -> dict[str, Any] | None:
        """Return the checkpoint to go on from, read by the first rank; None if there is none."""
        found: tuple[Path, dict[str, Any]] | None = None
        if ranks.first and checkpoint is not None:
            found = Path(checkpoint), load_checkpoint(Path(checkpoint))
        elif ranks.first:
            folder = path / self.config.checkpoints_dir
            found = newest_checkpoint(folder, self.say)
            if found is None and self._begun(path, None):
                raise ValueError(
                    f"{folder}: no checkpoint there can be gone on from, see above; nothing was "
                    "changed; restore one, or start another --run-dir"
                )
        found = ranks.share(found)
        if found is None:
            self.say("no checkpoint yet: starting from the beginning")
            return None
        numbers = found[1]["numbers"]
        self.say(
            f"resuming at epoch {numbers['epoch']}, step {numbers['step']}, from {found[0].name}"
        )
        return found[1]

    def _state(
        self,
        prepared: Prepared,
        saved: dict[str, Any] | None,
        ranks: Ranks,
        stop: StopRequest | None,
    ) -> TrainState:
        """Return the state that was saved, or a fresh one."""
        config = self.config
        if saved is None and config.auto_lr_find:
            rate = self._find(prepared, ranks, stop).suggestion
            config = replace(config, learning_rate=rate)
            self.say(f"learning rate {rate:.2g}, from a range test")
        state = TrainState(prepared.forecaster, config, prepared.fingerprint, ranks)
        if saved is not None:
            state.load_state_dict(saved)
        else:
            seed_rank(config.random_seed, ranks)
        return state

    def find_lr(self, data: str | Path) -> RangeTest:
        """Run an LR range test on a table, in this process alone; writes nothing."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ValueError("lr-find sweeps in one process; start it without torchrun")
        with deterministic_kernels(self.config.deterministic):
            return self._find(self.prepare(data), ALONE)

    def prepare(
        self,
        data: str | Path,
        ranks: Ranks = ALONE,
        fold: Fold | None = None,
        stop: StopRequest | None = None,
        begun: bool = False,
    ) -> Prepared:
        """Read a table and build network and loaders for it; writes nothing."""
        tell = self.teller(f"reading {data}", stop)
        return prepare(data, self.config, self.spec, self.say, tell, ranks, fold, begun)

    def _find(self, prepared: Prepared, ranks: Ranks, stop: StopRequest | None = None) -> RangeTest:
        tell = self.teller("learning-rate range test", stop)
        return lr_range_test(
            prepared.forecaster, prepared.train_loader, self.config, progress=tell, ranks=ranks
        )

    def teller(self, what: str, stop: StopRequest | None = None) -> Callable[[float], None]:
        """Say what begins, and return what says how far it is, every few seconds, or stops it."""
        self.say(what)
        last = time.monotonic()

        def tell(fraction: float) -> None:
            nonlocal last
            if stop is not None and stop.signal is not None:
                raise Stopped(stop.signal)
            if time.monotonic() - last > TELL_SECONDS:
                last = time.monotonic()
                self.say(f"{what}: {fraction:.0%}")

        return tell


def check_same(path: Path, config: TrainConfig, spec: TableSpec) -> None:
    """Refuse to go on with a run under another configuration than it was begun with.

    Raises:
        ValueError: a key that changes the result differs, or is unknown now; the message names it.
    """
    if not (path / CONFIG).exists():
        return
    saved = read_config(path)
    before = saved["train"] | {f"[data] {k}": v for k, v in saved["data"]["spec"].items()}
    table = {f"[data] {k}": v for k, v in json.loads(json.dumps(asdict(spec))).items()}
    now = config.to_dict() | table
    try:
        key = first_difference(saved["train"], config)
    except ValueError as error:
        raise ValueError(
            f"{path} was begun by another version of this program ({error}); start another "
            "--run-dir, or delete it"
        ) from error
    key = key or next((key for key in table if before.get(key) != now[key]), None)
    if key is not None:
        raise ValueError(
            f"{path} was begun with {key} = {before.get(key)!r}, not {now[key]!r}; resume it "
            "as it was, start another --run-dir, or delete it"
        )


def calibrate_best(run: RunDirectory, prepared: Prepared) -> CalibrationResult:
    """Calibrate the forecaster that was kept, which the run directory holds."""
    device = prepared.forecaster.quantiles.device
    best = load_forecaster(run.path / MODEL_DIR, str(device))
    result = prepared.calibrate(best)
    run.save_best(best)
    return result


def closing_line(loader: TrainLoader, result: FitResult, seconds: float) -> str:
    """Say how a training ended, in one line."""
    sampled = " sampled" if loader.sampled else ""
    which = (
        f"best epoch {result.best_epoch} of {result.epochs}"
        if result.best_epoch
        else f"no epoch better than before training, which is kept: of {result.epochs}"
    )
    other = (
        f"{result.first_validation_loss:.4f} before training"
        if result.best_epoch
        else f"best epoch {result.lowest_validation_loss:.4f}"
    )
    return (
        f"{which}, each of {loader.windows_per_epoch:,}"
        f"{sampled} windows{', the last cut short by the clock' if result.cut_short else ''}; "
        f"validation loss {result.best_validation_loss:.4f} ({other}), "
        f"{seconds / 60:.1f} min, peak memory {resident_memory_mb():.0f} MB"
    )


def final_figures(result: FitResult, seconds: float) -> dict[str, float]:
    """Return what TensorBoard compares runs by."""
    return {
        "best_validation_loss": result.best_validation_loss,
        "best_epoch": result.best_epoch,
        "train_loss": result.final_train_loss,
        "minutes": seconds / 60,
    }


def training_info(
    prepared: Prepared,
    config: TrainConfig,
    result: FitResult,
    calibration: CalibrationResult | None,
    began: datetime,
    seconds: float,
) -> dict[str, Any]:
    """Return what training_info.json says; every figure in it was measured in this run."""
    fleet, split = prepared.read.fleet, prepared.split
    begin, step = int(fleet.first_tick.min()), fleet.step_seconds
    first = result.first_validation_loss
    return {
        "trained_at": began.isoformat(timespec="seconds"),
        "epochs": result.epochs,
        "data_hours": (fleet.end_tick - begin) * step / 3600,
        "trained_hours": (split.cutoff - begin) * step / 3600,
        "validated_from": datetime.fromtimestamp(split.cutoff * step, UTC).isoformat(),
        "validated_until": datetime.fromtimestamp(split.end * step, UTC).isoformat(),
        "num_servers": len(fleet.servers),
        "final_train_loss": result.final_train_loss,
        "final_val_loss": result.final_validation_loss,
        "quantile_loss": result.best_validation_loss,
        "training_time_hours": seconds / 3600,
        "model_parameters": sum(p.numel() for p in prepared.forecaster.parameters()),
        "convergence": {
            "best_epoch": result.best_epoch,
            "first_val_loss": first if math.isfinite(first) else None,
            "best_val_loss": result.best_validation_loss,
            "plateau_reached": result.stopped_early,
            "out_of_time": result.out_of_time,
        },
        "early_stopping": {
            "patience": config.early_stopping_patience,
            "stopped_early": result.stopped_early,
        },
        "calibration": None if calibration is None else asdict(calibration),
        "init": None if config.init is None else Path(config.init).name,
        "learning_rate": result.learning_rate,
        "precision": config.precision,
        "random_seed": config.random_seed,
        "train_windows": len(split.train),
        "windows_per_epoch": prepared.train_loader.windows_per_epoch,
        "sampled_epochs": prepared.train_loader.sampled,
        "validation_windows": len(split.validation),
        "validation_windows_used": min(
            config.validation_windows or len(split.validation), len(split.validation)
        ),
        "validation_servers": [  # whose every window chose the best epoch: late comers among them
            fleet.servers[server]
            for server in np.unique(split.validation.server)
            if not split.trained[server]
        ],
        "skipped_steps": result.skipped_steps,
        "peak_memory_mb": resident_memory_mb(),
        "loss_unit": "quantile loss per observed target, averaged over "
        f"{len(config.quantiles)} quantiles, in standard deviations of each window's history",
        "torch": torch.__version__,
    }
