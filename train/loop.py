"""The training loop, in the order in which things happen."""

import math
import time
from dataclasses import dataclass
from signal import Signals

from train.config import TrainConfig
from train.progress import Progress
from train.ranks import Ranks
from train.record import EpochRecord, gpu_memory_mb, resident_memory_mb
from train.run_dir import SKIPPED, Bystander, RunDirectory
from train.signals import Stopped, StopRequest
from train.state import TrainState
from train.step import StepResult, TrainLoader, ValidationLoader, grouped, train_step
from train.validate import Validation, validate

MAX_BAD_STEPS = 3  # in a row, before training stops
CALIBRATION_PASSES = 2  # over about as many windows as are validated, at the end


@dataclass(frozen=True)
class FitResult:
    """How a training ended."""

    epochs: int
    best_epoch: int  # from 1; 0: none was better than what training started from
    lowest_validation_loss: float  # of the epochs
    first_validation_loss: float  # before the first step
    best_validation_loss: float  # of what is kept
    final_train_loss: float
    final_validation_loss: float
    learning_rate: float  # at the start
    stopped_early: bool
    out_of_time: bool
    cut_short: bool  # whether time ran out within the last epoch
    skipped_steps: int


def fit(
    state: TrainState,
    train_loader: TrainLoader,
    validation_loader: ValidationLoader,
    config: TrainConfig,
    run: RunDirectory | Bystander,
    stop: StopRequest | None = None,
    deadline: float = math.inf,
) -> FitResult:
    """Train; the run directory holds the best forecaster at every moment after the first epoch.

    What training starts from is judged too: with a day of data, whose windows all tell of the same
    hours, no epoch may be better.

    Args:
        state: fresh, or of a checkpoint; changed in place.
        train_loader: shuffled batches, this rank's share of each.
        validation_loader: fixed batches that decide which epoch is best, this rank's share.
        config: see `TrainConfig`.
        run: where everything is recorded.
        stop: asked after every step whether to save and leave.
        deadline: `time.monotonic()` by which training should have ended, the last validation
            and calibration included once this process knows how long they take.

    Raises:
        FloatingPointError: three steps in a row had no finite gradient, or no epoch a finite loss.
        Stopped: on request, after saving a checkpoint once a step has been taken.
    """
    stop = stop or StopRequest()
    progress = Progress(config, train_loader, deadline, state.ranks.first)
    closing_seconds, ended = 0.0, state.epoch - 1
    if state.step == 0:
        closing_seconds = validate_start(state, validation_loader, config, progress, stop)
    while not finished(state, config):
        started, trained_before = time.monotonic(), state.windows
        progress.start_epoch(state)
        try:
            last_moment = deadline - closing_seconds
            train_epoch(state, train_loader, config, run, progress, stop, last_moment)
            trained = time.monotonic()
            validation = validate(state.judged, validation_loader, config, state.ranks, stop)
        except (Stopped, ChildProcessError) as error:
            stopped = as_stop(error, stop, state.ranks)
            run.save_checkpoint(state)
            raise stopped from error
        improved = state.judge(validation.loss, whole=not state.out_of_time)
        closing_seconds = closing_validations(config) * (time.monotonic() - trained)
        speed = (state.windows - trained_before) / (trained - started)
        record = epoch_record(state, validation, time.monotonic() - started, speed)
        if improved or state.best_epoch == 0:
            state.with_best(run.save_best)
        run.log_epoch(record, state.judged)
        progress.end_epoch(record, improved)
        ended = state.epoch
        late = time.monotonic() + closing_seconds > deadline
        end_epoch(state, config, run, late, stop)
        if state.out_of_time:
            break
    return conclude(state, ended, config)


def validate_start(
    state: TrainState,
    loader: ValidationLoader,
    config: TrainConfig,
    progress: Progress,
    stop: StopRequest,
) -> float:
    """Judge what training starts from; return the seconds that ending it may take.

    Raises:
        Stopped: on request; nothing is trained yet.
    """
    began = time.monotonic()
    try:
        validation = validate(state.judged, loader, config, state.ranks, stop)
    except (Stopped, ChildProcessError) as error:
        raise as_stop(error, stop, state.ranks) from error
    seconds = time.monotonic() - began
    state.judge_start(validation.loss)
    progress.say(f"before training: validation {validation.loss:.4f}")
    return closing_validations(config) * seconds


def closing_validations(config: TrainConfig) -> int:
    """Return how many validations it takes to end: one, and calibration's."""
    return 1 + CALIBRATION_PASSES * config.calibrate


def end_epoch(
    state: TrainState,
    config: TrainConfig,
    run: RunDirectory | Bystander,
    late: bool,
    stop: StopRequest,
) -> None:
    """Save what is due of an epoch that was judged, and go on to the next or leave.

    Raises:
        Stopped: on request, of any rank.
    """
    signal, late_anywhere = state.ranks.most(stop.signal or 0, late)
    if state.out_of_time:  # the rest of the epoch is left for --resume
        run.save_checkpoint(state)
    else:
        next_epoch(state, config, run, bool(late_anywhere), bool(signal))
    if signal:
        raise Stopped(Signals(int(signal)))


def next_epoch(
    state: TrainState, config: TrainConfig, run: RunDirectory | Bystander, late: bool, stop: bool
) -> None:
    """Go on to the next epoch, with a checkpoint where one is due or nothing comes after."""
    ended, state.epoch = state.epoch, state.epoch + 1
    state.start_epoch()
    over = finished(state, config)
    state.out_of_time = late and not over
    due = ended % config.checkpoint_epochs == 0 or ended == state.best_epoch
    if due or over or late or stop:
        run.save_checkpoint(state, state.validation_loss)


def as_stop(error: Exception, stop: StopRequest, ranks: Ranks) -> Stopped:
    """Return why training stops; raise what is no stop but a failure.

    A signal to all processes of a service ends its loader's workers too, perhaps before this one
    has looked: that is a request, not a loss. With other ranks nobody can be sure to agree.
    """
    if isinstance(error, Stopped):
        return error
    if stop.signal is None or ranks.size > 1:
        raise error
    return Stopped(stop.signal)


def conclude(state: TrainState, ended: int, config: TrainConfig) -> FitResult:
    """Say how a training ended, after so many epochs.

    Raises:
        FloatingPointError: no epoch had a finite validation loss.
    """
    if not math.isfinite(state.lowest_loss):
        raise FloatingPointError(
            f"no epoch had a finite validation loss; lower learning_rate ({state.learning_rate})"
        )
    return FitResult(
        epochs=ended,
        best_epoch=state.best_epoch,
        lowest_validation_loss=state.lowest_loss,
        first_validation_loss=state.first_loss,
        best_validation_loss=state.best_loss,
        final_train_loss=state.train_loss,
        final_validation_loss=state.validation_loss,
        learning_rate=state.learning_rate,
        stopped_early=ended - state.best_epoch >= config.early_stopping_patience,
        out_of_time=state.out_of_time,
        cut_short=ended == state.epoch,
        skipped_steps=state.skipped_steps,
    )


def finished(state: TrainState, config: TrainConfig) -> bool:
    """Tell whether every epoch has been trained, or enough of them in vain."""
    ended = state.epoch - 1
    enough = config.epochs is not None and ended >= config.epochs
    return enough or ended - state.best_epoch >= config.early_stopping_patience


def train_epoch(
    state: TrainState,
    loader: TrainLoader,
    config: TrainConfig,
    run: RunDirectory | Bystander,
    progress: Progress,
    stop: StopRequest,
    deadline: float,
) -> None:
    """Take the remaining steps of an epoch, or as many as there is time for.

    Raises:
        FloatingPointError: three steps in a row had no finite gradient.
        Stopped: on request, of any rank.
    """
    ranks = state.ranks
    windows_per_step = config.accumulate_grad_batches * config.batch_size  # on all ranks
    state.forecaster.train()
    first_batch = state.step_in_epoch * config.accumulate_grad_batches
    moment = time.monotonic()
    for group in grouped(loader.epoch(state.epoch - 1, first_batch), config):
        result = train_step(state.model, group, state.optimizer, state.scaler, config, ranks)
        state.count(result)
        before = state.windows
        state.windows = min(state.step_in_epoch * windows_per_step, loader.windows_per_epoch)
        if not result.applied:
            explain_skip(state, loader, result, run, progress)
        since, moment = moment, time.monotonic()
        run.log_step(state, result, (state.windows - before) / max(moment - since, 1e-9))
        progress.step(state.step_in_epoch)
        signal, late_anywhere, due = ranks.most(
            stop.signal or 0, moment > deadline, run.checkpoint_due()
        )
        state.out_of_time = bool(late_anywhere) and not signal
        if signal:
            raise Stopped(Signals(int(signal)))
        if late_anywhere:
            return
        if due:
            run.save_checkpoint(state)


def explain_skip(
    state: TrainState,
    loader: TrainLoader,
    result: StepResult,
    run: RunDirectory | Bystander,
    progress: Progress,
) -> None:
    """Record the windows of a step without a finite gradient; give up after a few in a row.

    Raises:
        FloatingPointError: it was the third in a row.
    """
    size = state.config.accumulate_grad_batches
    first = (state.step_in_epoch - 1) * size
    batches = range(first, min(first + size, len(loader)))
    names = [name for batch in batches for name in loader.names(state.epoch - 1, batch)]
    run.log_skipped(state, float(result.gradient_norm), names)
    if state.bad_steps == 0:
        return  # fp16 looking for its loss scale
    where = f"epoch {state.epoch}, step {state.step_in_epoch}"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    windows = f"windows {', '.join(names[:3])}{more}, all in {SKIPPED}"
    if state.bad_steps == MAX_BAD_STEPS:
        raise FloatingPointError(
            f"{where}: {MAX_BAD_STEPS} steps in a row without a finite gradient, the last of "
            f"{windows}; lower learning_rate ({state.learning_rate}) or check the data there"
        )
    progress.say(f"{where}: no finite gradient, no weight changed; {windows}")


def epoch_record(
    state: TrainState, validation: Validation, seconds: float, windows_per_second: float
) -> EpochRecord:
    """Return what is kept of the epoch just judged."""
    return EpochRecord(
        epoch=state.epoch,
        train_loss=state.train_loss,
        val_loss=validation.loss,
        learning_rate=state.epoch_learning_rate,
        time_seconds=seconds,
        gpu_memory_mb=gpu_memory_mb(state.device),
        windows=state.windows,
        windows_per_second=windows_per_second,
        best_val_loss=state.best_loss,
        skipped_steps=state.skipped_steps,
        memory_mb=resident_memory_mb(),
        val_loss_by_metric=validation.loss_by_metric,
        coverage_by_metric=validation.coverage_by_metric,
    )
