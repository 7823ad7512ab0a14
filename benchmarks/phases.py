"""The four ways of training that `benchmarks.speed` compares, and what is measured of each.

Each measurement is a process of its own, so that memory and warm caches are nobody else's:
`python -m benchmarks.phases '{"measure": "steps", "phase": "baseline", ...}'` prints JSON.

The baseline is what the reference stack does: a Python call for every sample, one model for every
metric, a step for every tick of the context, a fixed learning rate, the readable layers. Nothing in
it is slowed down on purpose.
Peak memory is that of the training process: what loader workers hold is not counted.
"""

import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

import data.loaders
from benchmarks.memory import forget_peak, peak_memory
from data.windows import WindowStore
from tft.batch import WindowBatch
from train.config import TrainConfig
from train.loop import fit
from train.lr_find import lr_range_test
from train.prepare import Prepared
from train.record import EpochRecord
from train.run_dir import Bystander, RunDirectory
from train.state import TrainState
from train.step import TrainLoader, grouped, train_step
from train.trainer import TFTTrainer
from train.validate import Validation, validate

METRICS = ("cpu_percent", "memory_percent", "disk_percent", "load_average")
WARM_UP = 3  # steps not timed
NEVER = 1_000_000  # epochs without progress that a fixed rate or an unstopped training endures


@dataclass(frozen=True)
class Phase:
    """A way of training, and what was documented of it (24 h, 20 servers, 20 epochs)."""

    what: str
    documented_minutes: float
    documented_gigabytes: float
    documented_loss: float
    settings: dict[str, Any]
    per_sample: bool = False
    """Fetch windows one by one."""
    records: bool = True
    """Write checkpoints, logs and the best forecaster."""

    @property
    def models(self) -> int:
        """Models trained to forecast every metric."""
        return 1 if self.settings["multi_target"] else len(METRICS)


ONE_MODEL_EACH = {
    "multi_target": False, "patch_length": 1, "fast_path": False, "batch_size": 32,
}  # fmt: skip
FIXED_RATE = {**ONE_MODEL_EACH, "plateau_patience": NEVER}
PHASES = {
    "baseline": Phase(
        "per-sample fetching, fp32, a model a metric, a step a tick, fixed rate, readable layers",
        45, 8.0, 0.0450, FIXED_RATE, per_sample=True, records=False,
    ),
    "phase 1": Phase(
        "+ loader workers, pinned memory, checkpoints",
        15, 8.5, 0.0440, {**FIXED_RATE, "num_workers": 2},
    ),
    "phase 2": Phase(
        "+ LR range test, plateau schedule, monitoring of every step",
        13, 8.5, 0.0410,
        {**ONE_MODEL_EACH, "num_workers": 2, "auto_lr_find": True, "lr_monitor_interval": "step"},
    ),
    "phase 3": Phase(
        "one model for all metrics, an hour a step, hand-derived layers, batch 64, no workers, "
        "bf16 on a GPU",
        7, 4.5, 0.0360, {"multi_target": True, "batch_size": 64},
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What one process measures."""

    measure: str
    """`steps`: steady-state training steps; `training`: a whole training."""
    phase: str
    data: str
    seconds: float = 8.0
    """Of steps, at least."""
    metric: str = METRICS[0]
    """Forecast by a model of one metric."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Configuration keys that win over the phase's."""


# Keys of the phases and of the benchmark's options, which no setting may contradict.
OWNED = {key for phase in PHASES.values() for key in phase.settings} | {
    "device", "epochs", "target_metrics", "early_stopping_patience", "fast_path",
}  # fmt: skip


def configured(task: Task) -> TrainConfig:
    """Return the phase's configuration: the same windows, epochs and seed in each."""
    phase = PHASES[task.phase]
    settings = {
        "early_stopping_patience": NEVER,  # every phase trains every epoch
        "target_metrics": (task.metric, *(name for name in METRICS if name != task.metric)),
        **phase.settings,
        **task.settings,
    }
    if phase.models == 1 and settings.get("device") == "cuda":
        settings.setdefault("precision", "bf16")  # on a CPU it is slower than fp32
    return TrainConfig.from_dict(settings)


class PerSampleLoader:
    """Fetches windows one by one and stacks them, as a PyTorch dataset with a sampler does."""

    def __init__(self, loader: data.loaders.TrainLoader, store: WindowStore) -> None:
        """Take another loader's windows, out of a store on the CPU."""
        self.loader, self.store = loader, store

    @property
    def windows_per_epoch(self) -> int:
        """Windows in an epoch."""
        return self.loader.windows_per_epoch

    @property
    def sampled(self) -> bool:
        """Whether an epoch leaves windows out."""
        return self.loader.sampled

    def __len__(self) -> int:
        return len(self.loader)

    def names(self, epoch: int, batch: int) -> list[str]:
        """Name the windows of a batch."""
        return self.loader.names(epoch, batch)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[WindowBatch]:
        """Yield the batches of an epoch, the same windows in the same order."""
        size = self.loader.batch_size
        for batch in range(first_batch, len(self)):
            windows = self.loader.order.windows(epoch, batch * size, (batch + 1) * size)
            server, origin = self.loader.index.lookup(windows)
            samples = [
                self.store.gather(server[i : i + 1], origin[i : i + 1]) for i in range(len(server))
            ]
            yield WindowBatch(*(torch.cat(parts) for parts in zip(*samples, strict=True)))


class Listener(Bystander):
    """Writes nothing, but remembers what an epoch gave."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def log_epoch(self, record: EpochRecord, forecaster: Any) -> None:
        """Keep the record."""
        self.lines.append(asdict(record))


def prepared_for(task: Task, config: TrainConfig) -> tuple[Prepared, TrainLoader]:
    """Return what is trained on, and the phase's loader."""
    prepared = TFTTrainer(config, say=lambda line: None).prepare(task.data)
    if PHASES[task.phase].per_sample:
        forecaster = prepared.forecaster
        series = prepared.read.fleet, forecaster.schema, "cpu", forecaster.facts.servers
        return prepared, PerSampleLoader(prepared.train_loader, WindowStore(*series))
    return prepared, prepared.train_loader


def measure_steps(task: Task) -> dict[str, Any]:
    """Time training steps one after the other, fetching included, and their peak memory.

    Peak memory is that above what the process held just before the first step, so without
    libraries, data and weights.
    """
    config = configured(task)
    prepared, loader = prepared_for(task, config)
    state = TrainState(prepared.forecaster, config)
    state.forecaster.train()
    cuda = state.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated() if cuda else forget_peak()
    size = config.batch_size * config.accumulate_grad_batches
    whole_steps = loader.windows_per_epoch // size  # the last step of an epoch may be smaller
    if whole_steps == 0:
        raise ValueError(f"an epoch of {loader.windows_per_epoch} windows has no step of {size}")
    seconds: list[float] = []
    epoch = 0
    enough = False
    while not enough:
        last = time.perf_counter()
        for group in itertools.islice(grouped(loader.epoch(epoch), config), whole_steps):
            train_step(state.model, group, state.optimizer, state.scaler, config)
            seconds.append(time.perf_counter() - last)
            last = time.perf_counter()
            spent = sum(seconds[WARM_UP:])
            if enough := len(seconds) > WARM_UP and spent >= task.seconds:
                break
        epoch += 1
    peak = torch.cuda.max_memory_allocated() if cuda else peak_memory()
    step = median(seconds[WARM_UP:])
    return {
        "windows_per_second": size / step,
        "step_ms": 1e3 * step,
        "steps": len(seconds) - WARM_UP,
        "batch_size": config.batch_size,
        "peak_bytes": peak - before,
        "parameters": sum(p.numel() for p in prepared.forecaster.parameters()),
    }


def measure_training(task: Task) -> dict[str, Any]:
    """Train every epoch, and time all of it but reading the table."""
    config = configured(task)
    prepared, loader = prepared_for(task, config)
    started = time.perf_counter()
    if config.auto_lr_find:
        found = lr_range_test(prepared.forecaster, loader, config, progress=lambda _: None)
        config = replace(config, learning_rate=found.suggestion)
    state = TrainState(prepared.forecaster, config)
    torch.manual_seed(config.random_seed)
    with tempfile.TemporaryDirectory() as folder:
        if PHASES[task.phase].records:
            run = RunDirectory(Path(folder) / "run", config, False, prepared.examples)
            fit(state, loader, prepared.validation_loader, config, run)
            run.close()
            text = (Path(folder) / "run" / "metrics.jsonl").read_text()
            lines = [json.loads(line) for line in text.splitlines()]
        else:
            listener = Listener()
            fit(state, loader, prepared.validation_loader, config, listener)
            lines = listener.lines
    seconds = time.perf_counter() - started
    kept: list[Validation] = []
    state.with_best(lambda best: kept.append(validate(best, prepared.validation_loader, config)))
    return {
        "seconds": seconds,
        "epochs": len(lines),
        "windows": sum(line["windows"] for line in lines),
        "best_epoch": state.best_epoch,
        "loss_by_metric": kept[0].loss_by_metric,
        "learning_rate": config.learning_rate,
    }


MEASURES = {"steps": measure_steps, "training": measure_training}

if __name__ == "__main__":
    given = Task(**json.loads(sys.argv[1]))
    print(json.dumps(MEASURES[given.measure](given)))
