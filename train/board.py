"""TensorBoard's view of a run."""

import itertools
import math
from pathlib import Path

from report.examples import Examples, fan_panels, mean_selection_weights
from tft.forecaster import Forecaster
from train.config import TrainConfig
from train.record import EpochRecord
from train.state import TrainState
from train.step import StepResult

DPI = 68  # three servers are as wide as a card at "actual image size"
NO_HPARAMS = {  # change no result, and would crowd the table
    "checkpoints_dir", "checkpoint_minutes", "checkpoint_epochs", "logs_dir", "log_every_n_steps",
    "lr_monitor_interval",
}  # fmt: skip


class Board:
    """Writes curves over steps and epochs, pictures of forecasts, and the run's configuration."""

    def __init__(self, folder: Path, config: TrainConfig) -> None:
        """Open an event file in a folder; what other files there hold stays in the view."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import, needed only here

        self.config = config
        self._writer = SummaryWriter(str(folder))

    def step(self, state: TrainState, result: StepResult, windows_per_second: float) -> None:
        """Draw a step, one in `log_every_n_steps`; only then wait for the device."""
        if state.step % self.config.log_every_n_steps:
            return
        points = {
            "loss/train_step": result.loss,
            "gradient/norm": float(result.gradient_norm),
            "gradient/skipped_steps_step": state.skipped_steps,
            "speed/windows_per_second_step": windows_per_second,
        }
        if state.scaler.is_enabled():
            points["gradient/loss_scale"] = state.scaler.get_scale()
        if self.config.lr_monitor_interval == "step":
            points["learning_rate"] = state.optimizer.param_groups[0]["lr"]
        self._add(points, state.step)

    def epoch(self, record: EpochRecord) -> None:
        """Draw an epoch; a target without an observation has no point."""
        points = {
            "loss/train": record.train_loss,
            "loss/validation": record.val_loss,
            "loss/best_validation": record.best_val_loss,
            "gradient/skipped_steps": record.skipped_steps,
            "speed/windows_per_second": record.windows_per_second,
            "speed/epoch_seconds": record.time_seconds,
            "memory/resident_mb": record.memory_mb,
        }
        if record.gpu_memory_mb > 0.0:
            points["memory/gpu_mb"] = record.gpu_memory_mb
        for group, values in (
            ("loss_by_metric", record.val_loss_by_metric),
            ("coverage_80", record.coverage_by_metric),
        ):
            points |= {f"{group}/{name}": v for name, v in values.items() if math.isfinite(v)}
        if self.config.lr_monitor_interval == "epoch":
            points["learning_rate"] = record.learning_rate
        self._add(points, record.epoch)
        self._writer.flush()

    def examples(self, forecaster: Forecaster, examples: Examples, epoch: int) -> None:
        """Draw a few forecasts, and which variables the network selected for them.

        Args:
            forecaster: in evaluation mode, so that no random number is drawn.
            examples: the same in every epoch.
            epoch: the one just trained, from 1.
        """
        from report.plots import (
            as_image,
            fan_figure,
            selection_bars,
        )  # matplotlib is slow to import

        assert not forecaster.training
        weights = mean_selection_weights(forecaster, examples)
        figures = {"selection": selection_bars(weights, f"Variable selection after epoch {epoch}")}
        # A chart per metric: TensorBoard shows them too small for one of all.
        panels = fan_panels(forecaster, examples)
        for metric, row in itertools.groupby(panels, lambda panel: panel.metric):
            figures[f"forecasts/{metric}"] = fan_figure(list(row), f"Forecasts after epoch {epoch}")
        for tag, figure in figures.items():
            self._writer.add_image(tag, as_image(figure, DPI), epoch, dataformats="HWC")
        self._writer.flush()

    def hparams(self, config: TrainConfig, final: dict[str, float]) -> None:
        """Put the run into the HPARAMS tab.

        Args:
            config: its columns; lists, true and false, and none as text.
            final: how the run ended, as columns final/<name>.
        """
        from torch.utils.tensorboard.summary import hparams

        metrics = {f"final/{name}": value for name, value in final.items()}
        plain = {
            name: _plain(value)
            for name, value in config.to_dict().items()
            if name not in NO_HPARAMS
        }
        writer = self._writer._get_file_writer()  # add_hparams would make a run of its own
        for summary in hparams(plain, metrics):
            writer.add_summary(summary)
        self._add(metrics, 0)
        self._writer.flush()

    def close(self) -> None:
        """Write what is still in memory."""
        self._writer.close()

    def _add(self, points: dict[str, float], position: int) -> None:
        """Add one point to each of these curves."""
        for name, value in points.items():
            self._writer.add_scalar(name, value, position)


def _plain(value: object) -> str | float:
    """Return a number or text, which is all that TensorBoard's HPARAMS tab takes."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
