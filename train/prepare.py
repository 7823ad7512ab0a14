"""From a table to what `fit` needs: the module of `train` that knows how data is made."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from data.fleet import BoolArray, Fleet
from data.loaders import EvalLoader, TrainLoader
from data.reading import ReadResult, TableSpec, read_fleet
from data.sampling import WindowOrder
from data.splits import Split, split_by_time, split_fold, spread_evenly, training_stretches
from data.windows import WindowStore
from report.drift import RANGE, server_levels
from report.early_warning.breaches import TRAINING_QUANTILE
from report.examples import Examples, choose_examples
from tft.fast_path import use_fast_path
from tft.forecaster import Forecaster, TrainingFacts, network_config
from tft.model import TFT
from tft.normalise import WindowNormaliser
from tft.schema import FeatureSchema
from train.calibrate import CalibrationResult, calibrate
from train.config import TrainConfig
from train.device import choose_device
from train.init import load_source, start_from
from train.ranks import ALONE, Ranks

CALIBRATION_WINDOWS = 1024  # most, evenly spaced; their forecasts are held in memory


@dataclass(frozen=True)
class Fold:
    """One of a cross-validation's trainings."""

    number: int  # from 1
    folds: int


@dataclass(frozen=True)
class Prepared:
    """Everything `fit` needs, made from a table."""

    forecaster: Forecaster
    train_loader: TrainLoader
    validation_loader: EvalLoader
    examples: Examples
    read: ReadResult
    split: Split

    @property
    def fingerprint(self) -> str:
        """Tell this table, split as it is, from any other."""
        values = zlib.crc32(np.ascontiguousarray(self.read.fleet.values).data)
        return f"{values:08x}-{self.split.cutoff}-{len(self.split.train)}"

    def calibrate(self, forecaster: Forecaster) -> CalibrationResult:
        """Calibrate a forecaster of this training on its validation windows, in place."""
        loader, index = self.validation_loader, self.split.validation
        chosen = spread_evenly(len(index), CALIBRATION_WINDOWS)
        server, origin = index.lookup(chosen)
        horizons = np.stack([server, origin // forecaster.schema.prediction_horizon])
        apart = np.unique(horizons, axis=1).shape[1]
        batches = EvalLoader(loader.store, index, chosen, loader.batch_size)
        return calibrate(forecaster, batches, len(chosen), apart)


def prepare(
    data: str | Path,
    config: TrainConfig,
    spec: TableSpec,
    say: Callable[[str], None],
    progress: Callable[[float], None],
    ranks: Ranks = ALONE,
    fold: Fold | None = None,
    begun: bool = False,
) -> Prepared:
    """Read a table and build network and loaders for it; writes nothing.

    Args:
        data: CSV or Parquet file, or a folder of them.
        config: how it will be trained.
        spec: how to read the table.
        say: told, line by line, what was found.
        progress: called with the fraction read.
        ranks: the processes that train together; loaders yield this one's share.
        fold: split as this part of a cross-validation; None: by `validation_split`.
        begun: a checkpoint will replace every weight, so `init` need not be there any more.

    Raises:
        ValueError: the table or the configuration cannot be used.
    """
    device = choose_device(config.device)
    source = None if begun else load_source(config)
    read = read_fleet(data, spec, progress=progress)
    for line in read.summary.lines():
        say(f"  {line}")
    fleet, held_out = read.fleet, config.validation_servers
    schema = build_schema(read, config)
    if fold is None:
        split = split_by_time(fleet, schema, config.validation_split, held_out)
    else:
        split = split_fold(fleet, schema, fold.number, fold.folds, held_out)
    schema = replace(schema, profiles=known_profiles(fleet, split.trained))
    torch.manual_seed(config.random_seed)
    forecaster = build_forecaster(fleet, schema, split, config).to(device)
    if source is not None:
        for line in start_from(source, forecaster):
            say(line)
    store = WindowStore(
        fleet, schema, "cpu" if config.num_workers else device, forecaster.facts.servers
    )
    train_loader, validation_loader, used = make_loaders(store, split, config, ranks)
    parameters = sum(p.numel() for p in forecaster.parameters())
    say(
        f"{len(split.train):,} training windows ({train_loader.windows_per_epoch:,} an epoch"
        f"{', sampled' if train_loader.sampled else ''}), "
        f"{len(split.validation):,} validation windows ({used:,} used); "
        f"{parameters:,} parameters, {config.precision} on {device}"
        f"{f', {ranks.size} ranks' if ranks.size > 1 else ''}"
    )
    examples = choose_examples(fleet, store, split.validation)
    return Prepared(forecaster, train_loader, validation_loader, examples, read, split)


def make_loaders(
    store: WindowStore, split: Split, config: TrainConfig, ranks: Ranks
) -> tuple[TrainLoader, EvalLoader, int]:
    """Return this rank's loaders, and how many windows all ranks validate."""
    total = len(split.train)
    per_epoch = min(config.windows_per_epoch or total, total)
    train_loader = TrainLoader(
        store,
        split.train,
        WindowOrder(total, config.random_seed, per_epoch),
        config.batch_size,
        config.num_workers,
        pin_memory=torch.cuda.is_available() and config.device != "cpu",
        rank=ranks.rank,
        ranks=ranks.size,
    )
    chosen = spread_evenly(len(split.validation), config.validation_windows)
    share = chosen[ranks.rank :: ranks.size]
    return (
        train_loader,
        EvalLoader(store, split.validation, share, 4 * config.batch_size),
        len(chosen),
    )


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


def build_forecaster(
    fleet: Fleet, schema: FeatureSchema, split: Split, config: TrainConfig
) -> Forecaster:
    """Build a fresh network with statistics of the rows trained on, and of no other."""
    normaliser = WindowNormaliser(len(schema.metrics), len(schema.static_reals))
    stretches = training_stretches(fleet, split, schema.context_length)
    normaliser.fit(stretches, torch.from_numpy(fleet.static[split.trained]))
    network = TFT(
        network_config(
            schema,
            patch_length=config.patch_length,
            hidden_size=config.hidden_size,
            embedding_size=config.embedding_size,
            attention_heads=config.attention_heads,
            dropout=config.dropout,
        )
    )
    use_fast_path(network, config.fast_path)
    facts = training_facts(fleet, split, stretches)
    hidden = {"unknown_rate": config.unknown_rate, "calendar_dropout": config.calendar_dropout}
    return Forecaster(schema, network, normaliser, **hidden, facts=facts)


def training_facts(fleet: Fleet, split: Split, stretches: torch.Tensor) -> TrainingFacts:
    """Say what was trained on, and where it lay: of the rows trained on, and of no other.

    Args:
        fleet: series.
        split: of it.
        stretches: [K, ticks, M] of training rows, NaN where missing.
    """
    trained = np.flatnonzero(split.trained)
    levels = server_levels(fleet, None, split.cutoff, trained)
    rows = stretches.flatten(0, 1).numpy()  # [K * ticks, M]
    quantiles = (*RANGE, TRAINING_QUANTILE)
    limits = np.full((len(quantiles), len(fleet.metrics)), np.nan)
    for m, column in enumerate(rows.T):
        seen = column[np.isfinite(column)]
        if len(seen):
            limits[:, m] = np.quantile(seen, quantiles)
    return TrainingFacts(
        servers=tuple(fleet.servers[server] for server in trained),
        end_tick=split.cutoff,
        metric_low=_plain(limits[0]),
        metric_high=_plain(limits[1]),
        metric_peak=_plain(limits[2]),
        server_level=_plain(levels.level),
        server_spread=_plain(levels.spread),
    )


def _plain(values: npt.NDArray[np.floating[Any]]) -> tuple[float | None, ...]:
    """Return numbers as JSON holds them: of six digits, None for NaN."""
    return tuple(float(f"{v:.6g}") if np.isfinite(v) else None for v in values.ravel())
