"""What is kept of an epoch, and how much memory it took."""

import resource
import sys
from dataclasses import dataclass

import torch


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
    """Of this epoch's last step."""
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
    val_loss_by_metric: dict[str, float]
    """The validation loss of each target alone."""
    coverage_by_metric: dict[str, float]
    """Share of each target's observed validation ticks inside the 80 % interval."""


def gpu_memory_mb(device: torch.device) -> float:
    """Return the most memory PyTorch has had on this GPU, MB; 0 on a CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else 0.0


def resident_memory_mb() -> float:
    """Return the most memory this process has had resident, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kibibytes; bytes on macOS
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6
