"""What a training left written about itself, as far as a report needs it."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from report.groups import ValidationPart

INFO, METRICS = "training_info.json", "metrics.jsonl"  # as `train.run_dir` names them
PLATEAU_GAIN = 0.01  # of the loss: what the last quarter of a plateau's epochs gains less than
PLATEAU_EPOCHS = 8  # fewer are too few to tell


@dataclass(frozen=True)
class Epoch:
    """One epoch of a training; a loss that was not finite is None."""

    number: int
    """From 1."""
    train_loss: float | None
    val_loss: float | None
    learning_rate: float
    """Of its last step."""
    seconds: float
    """It took, validation included."""
    windows_per_second: float
    """While training."""


@dataclass(frozen=True)
class RunFacts:
    """A training that ended; None stands for what runs of older versions do not tell."""

    epochs: int
    """Epochs trained."""
    whole_epochs: int
    """Those of them that took all of their windows: the clock may have cut the last one short."""
    best_epoch: int
    """Whose weights were kept; 0: none was better than what training started from."""
    first_loss: float | None
    """Validation loss before the first step."""
    best_loss: float
    """Validation loss of what was kept, in `loss_unit`."""
    loss_unit: str
    """What the losses are."""
    patience_ran_out: bool
    """Whether early stopping ended the training."""
    out_of_time: bool
    """Whether the clock did."""
    data_days: float
    """Days from the table's first tick to its last."""
    trained_days: float | None
    """Days of them before the validation part."""
    num_servers: int
    """Servers in the table."""
    init: str | None
    """Run whose weights training began from."""
    validation_servers: tuple[str, ...]
    """Servers validated on but not trained on."""
    validated: tuple[datetime, datetime] | None
    """When the validation part began and ended."""
    windows_per_epoch: int
    """Windows trained in an epoch."""
    parameters: int
    """Of the network."""
    precision: str
    """Arithmetic of the network in training."""
    seed: int
    """Of the training."""
    hours: float
    """Training took, reading included."""
    memory_mb: float
    """Peak resident memory of the process."""
    gpu_memory_mb: float
    """Peak on the GPU, 0 without one."""
    course: tuple[Epoch, ...]
    """Its epochs, as far as metrics.jsonl holds them."""

    @property
    def plateau(self) -> bool:
        """Whether training stopped gaining.

        Patience ran out, or the last quarter of at least 8 epochs lowered the best validation loss
        by less than 1 %.
        """
        if self.patience_ran_out:
            return True
        gain = self.last_gain
        return self.epochs >= PLATEAU_EPOCHS and gain is not None and gain < PLATEAU_GAIN

    @property
    def last_gain(self) -> float | None:
        """Share by which the last quarter of epochs lowered the best validation loss."""
        losses = [epoch.val_loss for epoch in self.course if epoch.val_loss is not None]
        before = losses[: len(losses) - max(1, len(losses) // 4)]
        return 1.0 - min(losses) / min(before) if before and min(before) > 0 else None

    def validation_part(
        self, step_seconds: int, trained: Sequence[str] | None
    ) -> ValidationPart | None:
        """Return the ticks that chose the best epoch, None where the run does not tell.

        Args:
            step_seconds: seconds between ticks.
            trained: servers trained on, for a table that is not the run's own: of its others only
                `validation_servers` took part. None: the run's own, every server of which did.
        """
        if self.validated is None:
            return None
        begin, end = (int(when.timestamp()) // step_seconds for when in self.validated)
        took_part = None if trained is None else frozenset((*trained, *self.validation_servers))
        return ValidationPart(begin, end, took_part)


def read_run_facts(run: Path) -> RunFacts | None:
    """Read what a run directory tells of its training, None where it has not ended or is not there.

    Raises:
        ValueError: a file is damaged.
    """
    if not (run / INFO).exists():
        return None
    try:
        info = json.loads((run / INFO).read_text(encoding="utf-8"))
        metrics = run / METRICS
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
        return _facts(info, [json.loads(line) for line in lines])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{run / INFO} or {METRICS} beside it is damaged ({error!r}); restore it, or evaluate "
            "the model folder copied out of the run"
        ) from error


def _facts(info: Mapping[str, Any], lines: list[dict[str, Any]]) -> RunFacts:
    """Build facts from what the files hold."""
    ends = [info.get(name) for name in ("validated_from", "validated_until")]
    began, ended = (None if each is None else datetime.fromisoformat(each) for each in ends)
    trained_hours = info.get("trained_hours")
    return RunFacts(
        epochs=info["epochs"],
        whole_epochs=sum(line["windows"] >= info["windows_per_epoch"] for line in lines)
        if lines
        else info["epochs"],
        best_epoch=info["convergence"]["best_epoch"],
        first_loss=info["convergence"].get("first_val_loss"),
        best_loss=info["quantile_loss"],
        loss_unit=info["loss_unit"],
        patience_ran_out=info["early_stopping"]["stopped_early"],
        out_of_time=info["convergence"]["out_of_time"],
        data_days=info["data_hours"] / 24,
        trained_days=None if trained_hours is None else trained_hours / 24,
        num_servers=info["num_servers"],
        init=info.get("init"),
        validation_servers=tuple(info["validation_servers"]),
        validated=None if began is None or ended is None else (began, ended),
        windows_per_epoch=info["windows_per_epoch"],
        parameters=info["model_parameters"],
        precision=info["precision"],
        seed=info["random_seed"],
        hours=info["training_time_hours"],
        memory_mb=info["peak_memory_mb"],
        gpu_memory_mb=max((line["gpu_memory_mb"] for line in lines), default=0.0),
        course=tuple(
            Epoch(
                number=line["epoch"],
                train_loss=line["train_loss"],
                val_loss=line["val_loss"],
                learning_rate=line["learning_rate"],
                seconds=line["time_seconds"],
                windows_per_second=line["windows_per_second"],
            )
            for line in lines
        ),
    )
