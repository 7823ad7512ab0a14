"""Everything that changes while training: what a checkpoint holds."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from tft.forecaster import Forecaster
from train.config import TrainConfig, first_difference
from train.device import gather_weights, grad_scaler
from train.ranks import ALONE, Ranks
from train.step import StepResult, make_optimizer

NUMBERS = (
    "epoch", "step", "step_in_epoch", "windows", "first_loss", "best_loss", "best_epoch",
    "lowest_loss", "bad_steps", "skipped_steps", "train_loss", "validation_loss", "learning_rate",
)  # fmt: skip


class TrainState:
    """Weights, optimizer, schedule, scaler, random numbers and counters."""

    def __init__(
        self,
        forecaster: Forecaster,
        config: TrainConfig,
        data: str = "",
        ranks: Ranks = ALONE,
    ) -> None:
        """Start from a forecaster, on the device it is on.

        Args:
            forecaster: to train, in place.
            config: optimizer, schedule, averaging, precision.
            data: tells its table from others.
            ranks: the processes that train together.
        """
        self.forecaster, self.data, self.ranks = forecaster, data, ranks
        self.model = ranks.wrap(forecaster)  # what is called in training
        self.average = (
            None
            if config.ema_decay is None
            else AveragedModel(forecaster, multi_avg_fn=_moving_average(config.ema_decay))
        )
        if self.average is not None:
            gather_weights(self.average)
        self.device = forecaster.quantiles.device
        self.config = config
        self.learning_rate = config.learning_rate  # at the start
        self.optimizer = make_optimizer(forecaster, config)
        self.plateau = ReduceLROnPlateau(
            # PyTorch's patience is the last epoch that changes nothing; ours the first that does.
            self.optimizer,
            factor=0.5,
            patience=config.plateau_patience - 1,
            threshold=0.0,
        )
        self.scaler = grad_scaler(config.precision, self.device)
        self.epoch, self.step = 1, 0  # the epoch at hand; steps taken in all
        self.first_loss = math.nan  # validation loss before the first step
        self.best_loss, self.best_epoch = math.inf, 0  # epoch 0: what training starts from
        self.lowest_loss = math.inf  # validation loss of the best of the epochs alone
        self.best: dict[str, torch.Tensor] | None = None  # what was judged then
        self.train_loss = self.validation_loss = math.nan  # of the last epoch that ended
        self.epoch_learning_rate = config.learning_rate  # of its last step
        self.bad_steps, self.skipped_steps = 0, 0  # in a row; in all
        self.out_of_time = False
        self.seconds_before = 0.0  # in earlier processes of this training
        self.began = time.monotonic()
        self.start_epoch()

    @property
    def judged(self) -> Forecaster:
        """The forecaster to validate and to keep: of averaged weights, if they are averaged."""
        if self.average is None:
            return self.forecaster
        assert isinstance(self.average.module, Forecaster)
        return self.average.module

    @property
    def seconds(self) -> float:
        """Taken so far, by earlier processes too."""
        return self.seconds_before + time.monotonic() - self.began

    def start_epoch(self) -> None:
        """Begin the sums of an epoch."""
        self.step_in_epoch = self.windows = 0
        self.total = torch.zeros((), device=self.device)
        self.observed = torch.zeros((), device=self.device)

    def judge_start(self, validation_loss: float) -> None:
        """Take what training starts from for the best so far, if its loss is finite."""
        self.first_loss = validation_loss
        self._keep_if_better(validation_loss, 0)

    def judge(self, validation_loss: float, whole: bool = True) -> bool:
        """Tell whether an epoch is the best so far; one cut short moves no learning rate."""
        self.epoch_learning_rate = self.optimizer.param_groups[0]["lr"]
        self.train_loss = float(self.total / self.observed.clamp(min=1))
        self.validation_loss = validation_loss
        if whole:
            self.plateau.step(validation_loss)
        self.lowest_loss = min(self.lowest_loss, validation_loss)  # inf where that is NaN
        return self._keep_if_better(validation_loss, self.epoch)

    def _keep_if_better(self, validation_loss: float, epoch: int) -> bool:
        better = validation_loss < self.best_loss
        if better:
            self.best_loss, self.best_epoch = validation_loss, epoch
            self.best = _copied(self.judged)
        return better

    def with_best(self, keep: Callable[[Forecaster], None]) -> None:
        """Hand over the best forecaster so far, if there was one."""
        if self.best is not None:
            now = _copied(self.judged)
            self.judged.load_state_dict(self.best)
            keep(self.judged)
            self.judged.load_state_dict(now)

    def count(self, result: StepResult) -> None:
        """Add a step to the epoch's sums, and its weights to their average."""
        self.step += 1
        self.step_in_epoch += 1
        if result.applied:
            if self.average is not None:
                self.average.update_parameters(self.forecaster)
            self.total += result.total
            self.observed += result.observed
        self.bad_steps = 0 if result.applied or self._overflowed(result) else self.bad_steps + 1
        self.skipped_steps += not result.applied

    def _overflowed(self, result: StepResult) -> bool:
        """Tell whether fp16 is looking for its loss scale: the loss was fine, its gradient not."""
        can_shrink = self.scaler.is_enabled() and self.scaler.get_scale() > 1.0
        return can_shrink and bool(result.total.isfinite())

    def state_dict(self) -> dict[str, Any]:
        """Return tensors, numbers, and lists and dicts of them; every rank must ask."""
        return {
            "data": self.data,
            "config": self.config.to_dict(),
            "forecaster": self.forecaster.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "best": self.best,
            "optimizer": self.optimizer.state_dict(),
            "plateau": self.plateau.state_dict(),
            "scaler": self.scaler.state_dict(),
            "numbers": {name: getattr(self, name) for name in NUMBERS},
            "seconds": self.seconds,
            "total": self.total,
            "observed": self.observed,
            "random": self.ranks.gather(self._random_state()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken, on whatever device this state is on.

        Raises:
            ValueError: it was taken on other data, or of another configuration.
        """
        key = first_difference(state["config"], self.config)
        if key is not None:
            raise ValueError(
                f"the checkpoint was trained with {key} = {state['config'].get(key)!r}, not "
                f"{getattr(self.config, key)!r}; give the same, or start another --run-dir"
            )
        if state["data"] != self.data:
            raise ValueError(
                f"the checkpoint was trained on other data ({state['data']}, here {self.data}); "
                "give the same table, or start another --run-dir"
            )
        self.forecaster.load_state_dict(state["forecaster"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.best = state["best"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.plateau.load_state_dict(state["plateau"])
        self.scaler.load_state_dict(state["scaler"])
        for name in NUMBERS:
            setattr(self, name, state["numbers"][name])
        self.seconds_before = state["seconds"]
        self.total = state["total"].to(self.device)
        self.observed = state["observed"].to(self.device)
        self._set_random_state(state["random"])

    def _random_state(self) -> list[torch.Tensor]:
        cuda = [torch.cuda.get_rng_state(self.device)] if self.device.type == "cuda" else []
        return [torch.get_rng_state(), *cuda]

    def _set_random_state(self, of_ranks: list[list[torch.Tensor]]) -> None:
        """Draw on as this rank did; one that did not exist draws its own numbers from here on."""
        if self.ranks.rank >= len(of_ranks):
            seed_rank(self.step, self.ranks)
            return
        cpu, *cuda = of_ranks[self.ranks.rank]
        torch.set_rng_state(cpu)
        if cuda and self.device.type == "cuda":
            torch.cuda.set_rng_state(cuda[0], self.device)


def _copied(forecaster: Forecaster) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in forecaster.state_dict().items()}


def seed_rank(seed: int, ranks: Ranks) -> None:
    """Seed what training draws; other ranks than the first drop and hide other things."""
    torch.manual_seed((seed + 0x9E3779B97F4A7C15 * ranks.rank) % 2**63)


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """Return an exponential moving average, faster at first so as to forget the random start."""

    @torch.no_grad()
    def update(averaged: list[torch.Tensor], current: list[torch.Tensor], number: Any) -> None:
        taken = float(number)
        weight = 1 - min(decay, (1 + taken) / (10 + taken))
        for mean, value in zip(averaged, current, strict=True):
            mean.lerp_(value, weight)

    return update
