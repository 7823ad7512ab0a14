"""Everything that changes while training: what a checkpoint holds."""

import math
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tft.forecaster import Forecaster
from train.config import TrainConfig
from train.device import grad_scaler
from train.step import StepResult, make_optimizer

NUMBERS = (
    "epoch", "step", "step_in_epoch", "windows", "best_loss", "best_epoch", "bad_steps",
    "skipped_steps", "train_loss", "validation_loss", "learning_rate",
)  # fmt: skip


class TrainState:
    """Weights, optimizer, schedule, scaler, random numbers and counters."""

    def __init__(self, forecaster: Forecaster, config: TrainConfig, data: str = "") -> None:
        """Start from a forecaster, on the device it is on; `data` tells its table from others."""
        self.forecaster, self.data = forecaster, data
        self.device = forecaster.quantiles.device
        self.learning_rate = config.learning_rate  # at the start
        self.optimizer = make_optimizer(forecaster, config)
        self.schedule = ReduceLROnPlateau(
            # PyTorch's patience is the last epoch that changes nothing; ours the first that does.
            self.optimizer,
            factor=0.5,
            patience=config.plateau_patience - 1,
            threshold=0.0,
        )
        self.scaler = grad_scaler(config.precision, self.device)
        self.epoch, self.step = 1, 0  # the epoch at hand; steps taken in all
        self.best_loss, self.best_epoch = math.inf, 0
        self.train_loss = self.validation_loss = math.nan  # of the last epoch that ended
        self.bad_steps, self.skipped_steps = 0, 0  # in a row; in all
        self.out_of_time = False
        self.start_epoch()

    def start_epoch(self) -> None:
        """Begin the sums of an epoch."""
        self.step_in_epoch = self.windows = 0
        self.total = torch.zeros((), device=self.device)
        self.observed = torch.zeros((), device=self.device)

    def count(self, result: StepResult, windows: int) -> None:
        """Add a step to the epoch's sums."""
        self.step += 1
        self.step_in_epoch += 1
        self.windows += windows
        if result.applied:
            self.total += result.total
            self.observed += result.observed
        # fp16 finds its loss scale by overflowing: only a scale that cannot shrink further is bad.
        calibrating = self.scaler.is_enabled() and self.scaler.get_scale() > 1.0
        self.bad_steps = 0 if result.applied or calibrating else self.bad_steps + 1
        self.skipped_steps += not result.applied

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, numbers, and lists and dicts of them."""
        return {
            "data": self.data,
            "forecaster": self.forecaster.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
            "numbers": {name: getattr(self, name) for name in NUMBERS},
            "total": self.total,
            "observed": self.observed,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if self.device.type == "cuda" else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, on whatever device this state is on.

        Raises:
            ValueError: it was taken on other data.
        """
        if state["data"] != self.data:
            raise ValueError(
                f"the checkpoint was trained on other data ({state['data']}, here {self.data}); "
                "give the same table, or start another --run-dir"
            )
        self.forecaster.load_state_dict(state["forecaster"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        for name in NUMBERS:
            setattr(self, name, state["numbers"][name])
        self.total = state["total"].to(self.device)
        self.observed = state["observed"].to(self.device)
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda" and state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])
