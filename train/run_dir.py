"""A run directory: everything one training leaves behind.

config.json         what was asked for (TrainConfig, and how the table was read)
data.txt            what reading the table found
metrics.jsonl       one line an epoch
skipped.jsonl       one line a step that changed no weight, with the windows it was of
training_info.json  how it ended
model/              the best forecaster so far, to serve
checkpoints/        what --resume goes on from: the newest, and the best three of
                    those written
logs/               TensorBoard
.lock               held by the process that trains here
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from report.examples import Examples
from tft.bundle import save_forecaster
from tft.files import write_atomically
from tft.forecaster import Forecaster
from train.board import Board
from train.checkpoint import forget_after, save_checkpoint
from train.config import TrainConfig
from train.lock import LOCK, RunLock
from train.record import EpochRecord
from train.state import TrainState
from train.step import StepResult

MODEL_DIR = "model"
DRAWING_SHARE = 0.05  # of the time after the first picture: quick epochs have none
CONFIG, METRICS, INFO, DATA = "config.json", "metrics.jsonl", "training_info.json", "data.txt"
SKIPPED = "skipped.jsonl"


class RunDirectory:
    """Writes the files; whole or not at all, except metrics.jsonl, which grows by lines."""

    def __init__(
        self,
        path: Path,
        config: TrainConfig,
        resume: bool = False,
        examples: Examples | None = None,
    ) -> None:
        """Create the directory, or open it to go on, and keep others out.

        Args:
            path: of the directory.
            config: of the training.
            resume: whether it may hold a run already.
            examples: windows whose forecasts TensorBoard shows, of epochs that are not too quick.

        Raises:
            ValueError: it is not empty and `resume` is false, or another process is at work in it.
        """
        if not resume:
            check_free(path)
        path.mkdir(parents=True, exist_ok=True)
        self.path, self.config = path, config
        self._lock = RunLock(path)
        self._board = Board(path / config.logs_dir, config)
        self._examples, self._draw_again = examples, 0.0  # time.monotonic()
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
        """Keep everything `--resume` needs; the loss is that of an epoch just ended."""
        if validation_loss is not None and not math.isfinite(validation_loss):
            validation_loss = None
        save_checkpoint(self.checkpoints, state.state_dict(), state.step, validation_loss)
        self._last_checkpoint = time.monotonic()

    def checkpoint_due(self) -> bool:
        """Tell whether the last one is too long ago."""
        return time.monotonic() - self._last_checkpoint >= 60 * self.config.checkpoint_minutes

    def go_on_from(self, state: TrainState) -> None:
        """Drop what will be done again, and hold the forecaster that was the best by then.

        Raises:
            ValueError: a file of lines is damaged.
        """
        forget_after(self.checkpoints, state.step)
        here = (state.epoch, state.step_in_epoch)
        self._keep_lines(METRICS, lambda line: line["epoch"] < state.epoch)
        self._keep_lines(SKIPPED, lambda line: (line["epoch"], line["step_in_epoch"]) <= here)
        if math.isfinite(state.lowest_loss):  # an epoch has ended
            state.with_best(self.save_best)  # the folder may hold that of a later epoch, or none

    def log_step(self, state: TrainState, result: StepResult, windows_per_second: float) -> None:
        """Record a step in TensorBoard, one in `log_every_n_steps`."""
        self._board.step(state, result, windows_per_second)

    def log_skipped(self, state: TrainState, gradient_norm: float, windows: list[str]) -> None:
        """Record a step that changed no weight, with the windows it was of."""
        line = {
            "epoch": state.epoch,
            "step_in_epoch": state.step_in_epoch,
            "gradient_norm": str(gradient_norm),
            "windows": windows,
        }
        self._append(SKIPPED, line)

    def log_epoch(self, record: EpochRecord, forecaster: Forecaster) -> None:
        """Record an epoch, and what its forecasts look like."""
        plain = _finite(asdict(record))
        self._append(METRICS, plain)
        self._board.epoch(record)
        began = time.monotonic()
        if self._examples is not None and began >= self._draw_again:
            self._board.examples(forecaster, self._examples, record.epoch)
            self._draw_again = began + (time.monotonic() - began) / DRAWING_SHARE

    def log_result(self, learning_rate: float, final: dict[str, float]) -> None:
        """Record how the training ended, beside its configuration and the rate it began with."""
        self._board.hparams(replace(self.config, learning_rate=learning_rate), final)

    def close(self) -> None:
        """Close TensorBoard's file and let others in."""
        self._board.close()
        self._lock.release()

    def _keep_lines(self, name: str, keep: Callable[[dict[str, Any]], bool]) -> None:
        path = self.path / name
        if not path.exists():
            return
        try:
            lines = [line for line in path.read_text().splitlines(True) if line.endswith("\n")]
            kept = [line for line in lines if keep(json.loads(line))]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: damaged ({error}); move it away to go on without it"
            ) from error
        write_atomically(path, "".join(kept).encode())

    def _append(self, name: str, line: dict[str, Any]) -> None:
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


class Bystander:
    """Stands in for the run directory on every rank but the first: writes nothing."""

    def save_best(self, forecaster: Forecaster) -> None:
        """Write nothing."""

    def save_checkpoint(self, state: TrainState, validation_loss: float | None = None) -> None:
        """Write nothing, but hand in what the first rank's checkpoint needs of this one."""
        state.state_dict()

    def checkpoint_due(self) -> bool:
        """Leave that to the first rank."""
        return False

    def log_step(self, state: TrainState, result: StepResult, windows_per_second: float) -> None:
        """Write nothing."""

    def log_skipped(self, state: TrainState, gradient_norm: float, windows: list[str]) -> None:
        """Write nothing."""

    def log_epoch(self, record: EpochRecord, forecaster: Forecaster) -> None:
        """Write nothing."""


def _finite(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line as JSON can say it: null for what is not finite."""
    plain: dict[str, Any] = {}
    for name, value in line.items():
        if isinstance(value, dict):
            plain[name] = _finite(value)
        else:
            plain[name] = None if isinstance(value, float) and not math.isfinite(value) else value
    return plain


def check_free(path: Path) -> None:
    """Refuse a run directory in which a run would be lost.

    Raises:
        ValueError: it exists and holds something.
    """
    if path.exists() and (not path.is_dir() or any(p.name != LOCK for p in path.iterdir())):
        raise ValueError(
            f"run directory {path} is not empty; go on with --resume, or name another --run-dir"
        )
