"""A run directory: everything one training leaves behind.

config.json         what was asked for (TrainConfig, and how the table was read)
data.txt            what reading the table found
metrics.jsonl       one line an epoch
training_info.json  how it ended
model/              the best epoch's forecaster, to serve
checkpoints/        what --resume goes on from: the newest, and the best three
logs/               TensorBoard
.lock               held by the process that trains here
"""

import json
import math
import resource
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from tft.bundle import save_forecaster, write_atomically
from tft.forecaster import Forecaster
from train.checkpoint import save_checkpoint
from train.config import TrainConfig
from train.lock import LOCK, RunLock
from train.state import TrainState
from train.step import StepResult

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
    """Of this epoch, validation included; of its part since the last resume."""
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

    def __init__(self, path: Path, config: TrainConfig, resume: bool = False) -> None:
        """Create the directory, or open it to go on, and keep others out.

        Raises:
            ValueError: it is not empty and `resume` is false, or another process is at work in it.
        """
        if not resume:
            check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.config = path, config
        self._lock = RunLock(path)
        from torch.utils.tensorboard import SummaryWriter  # slow to import, needed only here

        self._board = SummaryWriter(str(path / config.logs_dir))
        self._last_checkpoint = time.monotonic()

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / self.config.checkpoints_dir

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file."""
        write_atomically(self.path / name, (json.dumps(content, indent=1) + "\n").encode())

    def write_text(self, name: str, text: str) -> None:
        """Write a text file."""
        write_atomically(self.path / name, text.encode())

    def save_best(self, forecaster: Forecaster) -> None:
        """Keep this forecaster as the one to serve."""
        save_forecaster(forecaster, self.path / MODEL_DIR)

    def save_checkpoint(self, state: TrainState, validation_loss: float | None = None) -> None:
        """Keep everything `--resume` needs."""
        save_checkpoint(self.checkpoints, state.state_dict(), state.step, validation_loss)
        self._last_checkpoint = time.monotonic()

    def checkpoint_if_due(self, state: TrainState) -> None:
        """Keep it where the last one is too long ago."""
        if time.monotonic() - self._last_checkpoint >= 60 * self.config.checkpoint_minutes:
            self.save_checkpoint(state)

    def end_epoch(self, state: TrainState) -> None:
        """Keep a checkpoint that stands for the epoch just ended."""
        loss = state.validation_loss
        self.save_checkpoint(state, loss if math.isfinite(loss) else None)

    def forget_from(self, epoch: int) -> None:
        """Drop the lines of epochs that a resumed training will train again."""
        path = self.path / METRICS
        if path.exists():
            lines = [line for line in path.read_text().splitlines(True) if line.endswith("\n")]
            kept = [line for line in lines if json.loads(line)["epoch"] < epoch]
            write_atomically(path, "".join(kept).encode())

    def log_step(self, state: TrainState, result: StepResult) -> None:
        """Record a step in TensorBoard, one in `log_every_n_steps`."""
        if state.step % self.config.log_every_n_steps:
            return
        self._board.add_scalar("loss/train_step", result.loss, state.step)
        self._board.add_scalar("gradient/norm", float(result.gradient_norm), state.step)
        if state.scaler.is_enabled():
            self._board.add_scalar("gradient/loss_scale", state.scaler.get_scale(), state.step)
        if self.config.lr_monitor_interval == "step":
            rate = state.optimizer.param_groups[0]["lr"]
            self._board.add_scalar("learning_rate", rate, state.step)

    def log_epoch(self, record: EpochRecord) -> None:
        """Record an epoch in metrics.jsonl and TensorBoard."""
        plain = {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in asdict(record).items()
        }
        with open(self.path / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")
        points = {
            "loss/train": record.train_loss,
            "loss/validation": record.val_loss,
            "speed/windows_per_second": record.windows_per_second,
            "memory/resident_mb": record.memory_mb,
            "memory/gpu_mb": record.gpu_memory_mb,
        }
        if self.config.lr_monitor_interval == "epoch":
            points["learning_rate"] = record.learning_rate
        for name, value in points.items():
            self._board.add_scalar(name, value, record.epoch)
        self._board.flush()

    def close(self) -> None:
        """Close TensorBoard's file and let others in."""
        self._board.close()
        self._lock.release()


def check_free(path: Path) -> None:
    """Refuse a run directory in which a run would be lost.

    Raises:
        ValueError: it exists and holds something.
    """
    if path.exists() and (not path.is_dir() or any(p.name != LOCK for p in path.iterdir())):
        raise ValueError(
            f"run directory {path} is not empty; go on with --resume, or name another --run-dir"
        )


def gpu_memory_mb(device: torch.device) -> float:
    """Return the most memory PyTorch has had on this GPU, MB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else 0.0


def resident_memory_mb() -> float:
    """Return the most memory this process has had resident, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kibibytes; bytes on macOS
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
