"""From a table to a trained run directory: the one module of `train` that reads data."""

import json
import math
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from data.fleet import Fleet
from data.loaders import EvalLoader, TrainLoader
from data.reading import ReadResult, TableSpec, read_fleet
from data.sampling import WindowOrder
from data.splits import Split, split_by_time, spread_evenly, training_stretches
from data.windows import WindowStore
from tft.forecaster import Forecaster, TrainingFacts, network_config
from tft.model import TFT
from tft.normalise import WindowNormaliser
from tft.schema import FeatureSchema
from train.checkpoint import newest_checkpoint
from train.config import TrainConfig
from train.device import choose_device
from train.loop import FitResult, fit
from train.lr_find import RangeTest, lr_range_test
from train.run_dir import (
    CONFIG,
    DATA,
    INFO,
    RunDirectory,
    check_free,
    resident_memory_mb,
)
from train.runs import read_config
from train.signals import StopRequest
from train.state import TrainState

TELL_SECONDS = 3.0  # between two reports of progress
BoolArray = npt.NDArray[np.bool_]
# Keys that may differ when a run is resumed: they change how long and where, not what.
MAY_CHANGE = {
    "epochs",
    "max_minutes",
    "device",
    "num_workers",
    "checkpoint_minutes",
    "log_every_n_steps",
    "lr_monitor_interval",
}


@dataclass(frozen=True)
class Prepared:
    """Everything `fit` needs, made from a table."""

    forecaster: Forecaster
    train_loader: TrainLoader
    validation_loader: EvalLoader
    read: ReadResult
    split: Split

    @property
    def fingerprint(self) -> str:
        """Tell this table, split as it is, from any other."""
        values = zlib.crc32(np.ascontiguousarray(self.read.fleet.values).data)
        return f"{values:08x}-{self.split.cutoff}-{len(self.split.train)}"


class TFTTrainer:
    """Reads a table, trains a forecaster on it, and leaves a run directory."""

    def __init__(
        self,
        config: TrainConfig | None = None,
        spec: TableSpec | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """Set up.

        Args:
            config: how to train; its target_metrics win over the spec's targets.
            spec: how to read the table.
            say: told, line by line, what is going on; None: stderr.
        """
        self.config = config or TrainConfig()
        self.spec = replace(spec or TableSpec(), targets=self.config.target_metrics)
        self.say = say or (lambda line: print(line, file=sys.stderr, flush=True))

    def train(
        self,
        data: str | Path,
        run_dir: str | Path | None = None,
        find_lr: bool = False,
        resume: bool = False,
        stop: StopRequest | None = None,
    ) -> Path:
        """Train on a table.

        Args:
            data: CSV or Parquet file, or a folder of them.
            run_dir: a new or empty directory; None: one under ./runs, named by the time.
            find_lr: start from an LR range test's suggestion, like `auto_lr_find`.
            resume: go on from the newest whole checkpoint in `run_dir`, if there is one.
            stop: asked after every step whether to save and leave.

        Returns:
            The run directory.

        Raises:
            ValueError: the table or the configuration cannot be used; nothing was written.
            FloatingPointError: training did not stay finite.
            Stopped: on request, after saving.
        """
        started = time.monotonic()
        began = datetime.now(UTC)
        path = Path(run_dir) if run_dir else Path("runs") / began.strftime("%Y%m%d-%H%M%S")
        config = replace(self.config, auto_lr_find=find_lr or self.config.auto_lr_find)
        if resume:
            check_same(path, config, self.spec)
        else:
            check_free(path)
        prepared = self.prepare(data)
        run = RunDirectory(path, config, resume)
        try:
            spec = {"path": str(Path(data).resolve()), "spec": asdict(self.spec)}
            run.write_json(CONFIG, {"train": config.to_dict(), "data": spec})
            run.write_text(DATA, "\n".join(prepared.read.summary.lines()) + "\n")
            state = self._state(prepared, config, run, resume)
            deadline = started + 60 * config.max_minutes if config.max_minutes else math.inf
            loaders = prepared.train_loader, prepared.validation_loader
            result = fit(state, *loaders, config, run, stop, deadline)
            seconds = time.monotonic() - started
            run.write_json(INFO, training_info(prepared, config, result, began, seconds))
        finally:
            run.close()
        self.say(closing_line(prepared.train_loader, result, seconds))
        return path

    def _state(
        self, prepared: Prepared, config: TrainConfig, run: RunDirectory, resume: bool
    ) -> TrainState:
        """Return the state of the newest whole checkpoint, or a fresh one."""
        found = newest_checkpoint(run.checkpoints, self.say) if resume else None
        if found is not None:
            checkpoint, saved = found
            state = TrainState(prepared.forecaster, config, prepared.fingerprint)
            state.load_state_dict(saved)
            run.forget_from(state.epoch)
            self.say(f"resuming at epoch {state.epoch}, step {state.step}, from {checkpoint.name}")
            return state
        if resume:
            self.say("no checkpoint yet: starting from the beginning")
            run.forget_from(1)
        if config.auto_lr_find:
            found_rate = self._find(prepared).suggestion
            config = replace(config, learning_rate=found_rate)
            self.say(f"learning rate {found_rate:.2g}, from a range test")
        torch.manual_seed(config.random_seed)
        return TrainState(prepared.forecaster, config, prepared.fingerprint)

    def find_lr(self, data: str | Path) -> RangeTest:
        """Run an LR range test on a table; writes nothing."""
        return self._find(self.prepare(data))

    def prepare(self, data: str | Path) -> Prepared:
        """Read a table and build network and loaders for it; writes nothing."""
        config = self.config
        device = choose_device(config.device)
        read = read_fleet(data, self.spec, progress=self._teller(f"reading {data}"))
        for line in read.summary.lines():
            self.say(f"  {line}")
        fleet = read.fleet
        schema = build_schema(read, config)
        split = split_by_time(fleet, schema, config.validation_split)
        trained = fleet.first_tick < split.cutoff
        schema = replace(schema, profiles=known_profiles(fleet, trained))
        torch.manual_seed(config.random_seed)
        forecaster = build_forecaster(fleet, schema, split, config).to(device)
        store = WindowStore(
            fleet, schema, "cpu" if config.num_workers else device, forecaster.facts.servers
        )
        per_epoch = min(config.windows_per_epoch or len(split.train), len(split.train))
        order = WindowOrder(len(split.train), config.random_seed, per_epoch)
        train_loader = TrainLoader(
            store,
            split.train,
            order,
            config.batch_size,
            config.num_workers,
            pin_memory=device.type == "cuda",
        )
        chosen = spread_evenly(len(split.validation), config.validation_windows)
        validation_loader = EvalLoader(store, split.validation, chosen, 4 * config.batch_size)
        parameters = sum(p.numel() for p in forecaster.parameters())
        self.say(
            f"{len(split.train):,} training windows ({order.per_epoch:,} an epoch"
            f"{', sampled' if train_loader.sampled else ''}), "
            f"{len(split.validation):,} validation windows ({len(chosen):,} used); "
            f"{parameters:,} parameters, {config.precision} on {device}"
        )
        return Prepared(forecaster, train_loader, validation_loader, read, split)

    def _find(self, prepared: Prepared) -> RangeTest:
        tell = self._teller("learning-rate range test")
        return lr_range_test(prepared.forecaster, prepared.train_loader, self.config, progress=tell)

    def _teller(self, what: str) -> Callable[[float], None]:
        """Say what begins, and return what says how far it is, every few seconds."""
        self.say(what)
        last = time.monotonic()

        def tell(fraction: float) -> None:
            nonlocal last
            if time.monotonic() - last > TELL_SECONDS:
                last = time.monotonic()
                self.say(f"{what}: {fraction:.0%}")

        return tell


def build_schema(read: ReadResult, config: TrainConfig) -> FeatureSchema:
    """Derive the schema from what the table holds and what was asked for."""
    targets, observed = read.targets, read.observed
    if not config.multi_target:
        targets, observed = targets[:1], targets[1:] + observed
    return FeatureSchema(
        targets=targets,
        observed=observed,
        static_reals=read.fleet.static_names,
        step_seconds=read.fleet.step_seconds,
        context_length=config.context_length,
        min_context_length=config.min_context_length,
        prediction_horizon=config.prediction_horizon,
        quantiles=config.quantiles,
    )


def known_profiles(fleet: Fleet, trained: BoolArray) -> tuple[str, ...]:
    """Name the profiles of servers trained on; any other has the unknown code."""
    pairs = zip(fleet.profiles, trained, strict=True)
    return tuple(sorted({profile for profile, seen in pairs if seen and profile}))


def check_same(path: Path, config: TrainConfig, spec: TableSpec) -> None:
    """Refuse to go on with a run under another configuration than it was begun with.

    Raises:
        ValueError: a key that changes the result differs; the message names it.
    """
    if not (path / CONFIG).exists():
        return
    saved = read_config(path)
    before, now = TrainConfig.from_dict(saved["train"]).to_dict(), config.to_dict()
    before |= {f"[data] {key}": value for key, value in saved["data"]["spec"].items()}
    now |= {f"[data] {k}": v for k, v in json.loads(json.dumps(asdict(spec))).items()}
    for key in now.keys() - MAY_CHANGE:
        if before.get(key) != now[key]:
            raise ValueError(
                f"{path} was begun with {key} = {before.get(key)!r}, not {now[key]!r}; resume it "
                "as it was, or start another --run-dir"
            )


def build_forecaster(
    fleet: Fleet, schema: FeatureSchema, split: Split, config: TrainConfig
) -> Forecaster:
    """Build a fresh network with statistics of the rows before the cutoff, and of no other."""
    trained = fleet.first_tick < split.cutoff
    normaliser = WindowNormaliser(len(schema.metrics), len(schema.static_reals))
    normaliser.fit(
        training_stretches(fleet, split.cutoff, schema.context_length),
        torch.from_numpy(fleet.static[trained]),
    )
    network = TFT(
        network_config(
            schema,
            hidden_size=config.hidden_size,
            embedding_size=config.embedding_size,
            attention_heads=config.attention_heads,
            dropout=config.dropout,
        )
    )
    servers = tuple(name for name, seen in zip(fleet.servers, trained, strict=True) if seen)
    facts = TrainingFacts(servers, split.cutoff)
    return Forecaster(schema, network, normaliser, config.unknown_rate, facts)


def closing_line(loader: TrainLoader, result: FitResult, seconds: float) -> str:
    """Say how a training ended, in one line."""
    sampled = " sampled" if loader.sampled else ""
    return (
        f"best epoch {result.best_epoch} of {result.epochs}, each of {loader.windows_per_epoch:,}"
        f"{sampled} windows; validation loss {result.best_validation_loss:.4f}, "
        f"{seconds / 60:.1f} min, peak memory {resident_memory_mb():.0f} MB"
    )


def training_info(
    prepared: Prepared, config: TrainConfig, result: FitResult, began: datetime, seconds: float
) -> dict[str, Any]:
    """Return what training_info.json says; every figure in it was measured in this run."""
    fleet, split = prepared.read.fleet, prepared.split
    ticks = fleet.end_tick - int(fleet.first_tick.min())
    return {
        "trained_at": began.isoformat(timespec="seconds"),
        "epochs": result.epochs,
        "data_hours": ticks * fleet.step_seconds / 3600,
        "num_servers": len(fleet.servers),
        "final_train_loss": result.final_train_loss,
        "final_val_loss": result.final_validation_loss,
        "quantile_loss": result.best_validation_loss,
        "training_time_hours": seconds / 3600,
        "model_parameters": sum(p.numel() for p in prepared.forecaster.parameters()),
        "convergence": {
            "best_epoch": result.best_epoch,
            "best_val_loss": result.best_validation_loss,
            "plateau_reached": result.stopped_early,
            "out_of_time": result.out_of_time,
        },
        "early_stopping": {
            "patience": config.early_stopping_patience,
            "stopped_early": result.stopped_early,
        },
        "learning_rate": result.learning_rate,
        "precision": config.precision,
        "random_seed": config.random_seed,
        "train_windows": len(split.train),
        "windows_per_epoch": prepared.train_loader.windows_per_epoch,
        "sampled_epochs": prepared.train_loader.sampled,
        "validation_windows": len(split.validation),
        "validation_windows_used": len(prepared.validation_loader.windows),
        "skipped_steps": result.skipped_steps,
        "peak_memory_mb": resident_memory_mb(),
        "loss_unit": "quantile loss per observed target, averaged over "
        f"{len(config.quantiles)} quantiles, in standard deviations of each window's history",
        "torch": torch.__version__,
    }
