"""A run directory: everything one training leaves behind.

config.json         what was asked for (TrainConfig, and how the table was read)
data.txt            what reading the table found
metrics.jsonl       one line an epoch
training_info.json  how it ended
model/              the best epoch's forecaster, to serve
checkpoints/last/   the last epoch's forecaster
logs/               TensorBoard
"""

import json
import resource
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tft.bundle import save_forecaster, write_atomically
from tft.forecaster import Forecaster
from train.config import TrainConfig

if TYPE_CHECKING:
    from train.loop import StepResult

MODEL_DIR = "model"
CONFIG, METRICS, INFO, DATA = "config.json", "metrics.jsonl", "training_info.json", "data.txt"


@dataclass(frozen=True)
class EpochRecord:
    """One line of metrics.jsonl."""

    epoch: int
    """From 1."""
    train_loss: float
    """Quantile loss per observed target, in units of each window's spread, with dropout."""
    val_loss: float
    """The same on the validation windows, without dropout."""
    learning_rate: float
    """Of this epoch."""
    time_seconds: float
    """Of this epoch, validation included."""
    gpu_memory_mb: float
    """Peak allocated on the GPU so far, 0 without one."""
    windows: int
    """Trained in this epoch."""
    windows_per_second: float
    """While training."""
    best_val_loss: float
    """So far."""
    skipped_steps: int
    """So far: steps without a finite gradient, which changed no weight."""
    memory_mb: float
    """Peak resident memory of the process so far."""


class RunDirectory:
    """Writes the files; whole or not at all, except metrics.jsonl, which grows by lines."""

    def __init__(self, path: Path, config: TrainConfig) -> None:
        """Create the directory.

        Raises:
            ValueError: it exists and is not empty.
        """
        check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.config = path, config
        from torch.utils.tensorboard import SummaryWriter  # slow to import, needed only here

        self._board = SummaryWriter(str(path / config.logs_dir))

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file."""
        write_atomically(self.path / name, (json.dumps(content, indent=1) + "\n").encode())

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        write_atomically(self.path / name, text.encode())

    def save_best(self, forecaster: Forecaster) -> None:
        """Keep this forecaster as the one to serve."""
        save_forecaster(forecaster, self.path / MODEL_DIR)

    def save_last(self, forecaster: Forecaster) -> None:
        """Keep this forecaster as the last epoch's."""
        save_forecaster(forecaster, self.path / self.config.checkpoints_dir / "last")

    def log_step(self, step: int, result: "StepResult", optimizer: torch.optim.Optimizer) -> None:
        """Record a step in TensorBoard, one in `log_every_n_steps`."""
        if step % self.config.log_every_n_steps:
            return
        loss = result.total / result.observed.clamp(min=1)
        self._scalar("loss/train_step", float(loss), step)
        self._scalar("gradient/norm", float(result.gradient_norm), step)
        if self.config.lr_monitor_interval == "step":
            self._scalar("learning_rate", optimizer.param_groups[0]["lr"], step)

    def log_epoch(self, record: EpochRecord) -> None:
        """Record an epoch in metrics.jsonl and TensorBoard."""
        with open(self.path / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")
        self._scalar("loss/train", record.train_loss, record.epoch)
        self._scalar("loss/validation", record.val_loss, record.epoch)
        self._scalar("speed/windows_per_second", record.windows_per_second, record.epoch)
        self._scalar("memory/resident_mb", record.memory_mb, record.epoch)
        self._scalar("memory/gpu_mb", record.gpu_memory_mb, record.epoch)
        if self.config.lr_monitor_interval == "epoch":
            self._scalar("learning_rate", record.learning_rate, record.epoch)
        self._board.flush()

    def close(self) -> None:
        """Close TensorBoard's file."""
        self._board.close()

    def _scalar(self, name: str, value: float, step: int) -> None:
        self._board.add_scalar(name, value, step)


def check_free(path: Path) -> None:
    """Refuse a run directory in which a run would be lost.

    Raises:
        ValueError: it exists and is not an empty directory.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(
            f"run directory {path} is not empty; name another with --run-dir, or remove it first"
        )


def read_config(run: Path) -> dict[str, Any]:
    """Read a run's config.json.

    Raises:
        ValueError: the directory holds no run.
    """
    try:
        config = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{run}: no run directory, {CONFIG} cannot be read ({error}); expected one `train` "
            "wrote"
        ) from error
    if not isinstance(config, dict) or not {"train", "data"} <= config.keys():
        raise ValueError(f"{run / CONFIG}: not written by `train`; expected keys train and data")
    return config


def gpu_memory_mb(device: torch.device) -> float:
    """Return the most memory PyTorch has had on this GPU, MB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else 0.0


def resident_memory_mb() -> float:
    """Return the most memory this process has had resident, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
