"""Checkpoints: whole, verified, few, and exact to go on from."""

import json
import os
import pickle
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.builders import tiny_forecaster
from tests.test_loop import CONFIG, loaders, records, weights
from tft.batch import WindowBatch
from tft.forecaster import Forecaster
from train.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from train.config import TrainConfig
from train.lock import RunLock
from train.loop import fit
from train.run_dir import RunDirectory
from train.signals import Stopped, StopRequest
from train.state import TrainState
from train.step import StepResult


def nothing(_: str) -> None:
    pass


def names(folder: Path) -> list[str]:
    return sorted(path.name.rsplit("-", 1)[0] for path in folder.iterdir())


# --- files ---------------------------------------------------------------------------------------


def test_round_trip(tmp_path: Path) -> None:
    state = {"weights": {"a": torch.randn(3)}, "numbers": {"x": 1.5, "n": 3}, "list": [1, None]}
    path = save_checkpoint(tmp_path, state, step=7, validation_loss=0.25)
    assert path.name.startswith("step-000000007-val-0.25-")
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["weights"]["a"], state["weights"]["a"])
    assert loaded["numbers"] == state["numbers"] and loaded["list"] == state["list"]


def test_the_best_three_and_the_newest_are_kept(tmp_path: Path) -> None:
    """nanoGPT overwrote its best loss when a save was forced, so its best were not the best."""
    losses = [0.5, 0.2, None, 0.9, 0.3, None, 0.1, 0.8, None, None]
    for step, loss in enumerate(losses, 1):
        save_checkpoint(tmp_path, {"step": step}, step, loss)
    assert names(tmp_path) == [
        "step-000000002-val-0.2",
        "step-000000005-val-0.3",
        "step-000000007-val-0.1",
        "step-000000010",
    ]


@pytest.mark.parametrize("damage", ["flip", *range(0, 100, 5)])
def test_damage_is_found_and_the_one_before_is_loaded(tmp_path: Path, damage: Any) -> None:
    """One flipped bit, and files cut short at 20 places."""
    save_checkpoint(tmp_path, {"number": 1}, 1, 0.5)
    newest = save_checkpoint(tmp_path, {"number": 2}, 2)
    blob = bytearray(newest.read_bytes())
    if damage == "flip":
        blob[len(blob) // 2] ^= 1
    else:
        blob = blob[: len(blob) * damage // 100]
    newest.write_bytes(blob)
    said: list[str] = []
    found = newest_checkpoint(tmp_path, said.append)
    assert found is not None and found[1]["number"] == 1
    assert len(said) == 1 and newest.name in said[0] and "damaged" in said[0]
    with pytest.raises(ValueError, match="damaged, its content has not the hash in its name"):
        load_checkpoint(newest)


def test_a_planted_pickle_never_runs(tmp_path: Path) -> None:
    """Even with the right hash in its name."""
    import hashlib

    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sentinel"),)

    blob = pickle.dumps(Payload())
    path = tmp_path / f"step-000000001-{hashlib.sha256(blob).hexdigest()[:16]}.pt"
    path.write_bytes(blob)
    with pytest.raises(ValueError, match="not a checkpoint"):
        load_checkpoint(path)
    torch.save({"version": 1, "x": Payload()}, tmp_path / "tmp")
    blob = (tmp_path / "tmp").read_bytes()
    path = tmp_path / f"step-000000002-{hashlib.sha256(blob).hexdigest()[:16]}.pt"
    path.write_bytes(blob)
    assert newest_checkpoint(tmp_path, nothing) is None
    assert not (tmp_path / "sentinel").exists()


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".step-000000009.pt.123.tmp").write_text("half")
    save_checkpoint(tmp_path, {}, 1)
    save_checkpoint(tmp_path, {}, 2)
    assert {"notes.txt", ".step-000000009.pt.123.tmp"} < {path.name for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="not a checkpoint's name"):
        load_checkpoint(tmp_path / "notes.txt")


def test_a_full_disk_keeps_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_checkpoint(tmp_path, {"number": 1}, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path, {"number": 2}, 2)
    found = newest_checkpoint(tmp_path, nothing)
    assert found is not None and found[1]["number"] == 1
    assert len(list(tmp_path.iterdir())) == 1


# --- going on ------------------------------------------------------------------------------------


class StopAt(StopRequest):
    """Asks for a stop once a training has taken so many steps, wherever in an epoch that is."""

    def __init__(self, state: TrainState, step: int) -> None:
        self.state, self.step = state, step

    @property
    def signal(self) -> signal.Signals | None:
        return signal.SIGTERM if self.state.step >= self.step else None


def train(
    path: Path, config: TrainConfig, stop_at: int | None = None, resume: bool = False
) -> Forecaster:
    torch.manual_seed(0)
    forecaster = tiny_forecaster()
    forecaster.unknown_rate = 0.3  # random numbers beside dropout's
    state = TrainState(forecaster, config, "data")
    run = RunDirectory(path, config, resume)
    if resume:
        found = newest_checkpoint(run.checkpoints, nothing)
        assert found is not None
        torch.manual_seed(999)  # whatever the new process drew before
        state.load_state_dict(found[1])
        run.forget_from(state.epoch)
    stop = None if stop_at is None else StopAt(state, stop_at)
    try:
        fit(state, *loaders(per_epoch=80), config, run, stop)
    finally:
        run.close()
    return forecaster


CASES = {
    "plain": CONFIG,
    "accumulation": replace(CONFIG, accumulate_grad_batches=2, epochs=3),
    "fp16 scaler": replace(CONFIG, precision="fp16"),
    "cosine and averaging": replace(CONFIG, schedule="cosine", ema_decay=0.9),
    "plateau and early stopping": replace(
        CONFIG, learning_rate=0.5, epochs=6, plateau_patience=1, early_stopping_patience=2
    ),
}


@pytest.mark.parametrize("config", CASES.values(), ids=CASES)
@pytest.mark.parametrize("stop_at", [1, 4, 5, 8])
def test_resuming_is_bit_identical_to_never_stopping(
    tmp_path: Path, config: TrainConfig, stop_at: int
) -> None:
    """In the middle of an epoch, at its end, and twice over."""
    whole = train(tmp_path / "whole", config)
    with pytest.raises(Stopped):
        train(tmp_path / "parts", config, stop_at)
    if stop_at == 1:
        with pytest.raises(Stopped):
            train(tmp_path / "parts", config, 3, resume=True)
    parts = train(tmp_path / "parts", config, resume=True)
    assert torch.equal(weights(whole), weights(parts))
    volatile = ("time_seconds", "windows_per_second", "memory_mb")
    one, two = (records(tmp_path / name) for name in ("whole", "parts"))
    for record in (*one, *two):
        for key in volatile:
            del record[key]
    assert one == two


def test_other_data_is_refused() -> None:
    state = TrainState(tiny_forecaster(), CONFIG, "this").state_dict()
    with pytest.raises(ValueError, match="trained on other data"):
        TrainState(tiny_forecaster(), CONFIG, "that").load_state_dict(state)


def test_checkpoints_within_an_epoch_come_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONFIG, checkpoint_minutes=1.0)
    run = RunDirectory(tmp_path / "run", config)
    state = TrainState(tiny_forecaster(), config)
    zero = torch.zeros(())
    now = [run._last_checkpoint]
    monkeypatch.setattr("train.run_dir.time.monotonic", lambda: now[0])
    written = []
    for step in range(1, 7):
        state.count(StepResult(zero, zero, zero, True))
        now[0] += 25
        if run.checkpoint_due():
            run.save_checkpoint(state)
        written.append(names(run.checkpoints)[-1] if run.checkpoints.exists() else "")
        assert state.step == step
    run.close()
    assert [name[-1:] for name in written] == ["", "", "3", "3", "3", "6"]


def test_a_half_written_last_line_of_metrics_is_dropped(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run", CONFIG)
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text("".join(json.dumps({"epoch": e}) + "\n" for e in (1, 2, 3)) + '{"epo')
    run.forget_from(3)
    run.close()
    assert [record["epoch"] for record in records(tmp_path / "run")] == [1, 2]


# --- one process per run -------------------------------------------------------------------------


def test_a_second_process_is_refused_by_name_and_a_stale_lock_is_not_in_the_way(
    tmp_path: Path,
) -> None:
    first = RunLock(tmp_path)
    with pytest.raises(ValueError, match=f"in use by process {os.getpid()} on "):
        RunLock(tmp_path)
    first.release()
    RunLock(tmp_path).release()  # the file is still there, as after a kill


def test_what_a_killed_holder_was_writing_is_removed(tmp_path: Path) -> None:
    """And nothing else: another process may be at work on a report."""
    stale = [".metrics.jsonl.4711.tmp", "checkpoints/.step.pt.4711.tmp", "model/.w.4711.tmp"]
    others = ["evaluation/.report.md.4712.tmp", "model/w", "checkpoints/4711.tmp"]
    for name in (*stale, *others):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / ".lock").write_text("process 4711 on host")
    RunLock(tmp_path).release()
    assert not any((tmp_path / name).exists() for name in stale)
    assert all((tmp_path / name).exists() for name in others)
    assert (tmp_path / ".lock").read_text().startswith(f"process {os.getpid()} on ")


class Stopping:
    """A loader in the middle of which somebody asks for a stop; or which then loses a worker."""

    def __init__(self, loader: Any, stop: StopRequest, lost: bool = False) -> None:
        self.loader, self.stop, self.lost = loader, stop, lost

    def __iter__(self) -> Iterator[WindowBatch]:
        for batch in self.loader:
            yield batch
            self.stop.signal = signal.SIGTERM

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[WindowBatch]:
        for number, batch in enumerate(self.loader.epoch(epoch, first_batch)):
            if number == 3:
                self.stop.signal = signal.SIGTERM if self.lost else None
                raise ChildProcessError("a worker was lost")
            yield batch


def fit_stopping(path: Path, train_loader: Any, validation_loader: Any, stop: StopRequest) -> None:
    torch.manual_seed(0)
    forecaster = tiny_forecaster()
    forecaster.unknown_rate = 0.3
    run = RunDirectory(path, CONFIG)
    try:
        fit(TrainState(forecaster, CONFIG, "data"), train_loader, validation_loader, CONFIG, run,
            stop)  # fmt: skip
    finally:
        run.close()


def test_a_stop_while_validating_does_not_wait_for_all_of_it(tmp_path: Path) -> None:
    """A fleet's validation may take minutes; the epoch's steps are kept and not taken again."""
    whole, stop = train(tmp_path / "whole", CONFIG), StopRequest()
    train_loader, validation_loader = loaders(per_epoch=80)
    with pytest.raises(Stopped):
        fit_stopping(tmp_path / "run", train_loader, Stopping(validation_loader, stop), stop)
    found = newest_checkpoint(tmp_path / "run" / "checkpoints", nothing)
    assert found is not None and found[1]["numbers"]["step_in_epoch"] == 5
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert torch.equal(weights(train(tmp_path / "run", CONFIG, resume=True)), weights(whole))


def test_a_signal_that_takes_the_loaders_workers_too_is_a_stop(tmp_path: Path) -> None:
    """A service manager ends every process of a service at once; without it a loss is a loss."""
    whole, stop = train(tmp_path / "whole", CONFIG), StopRequest()
    train_loader, validation_loader = loaders(per_epoch=80)
    with pytest.raises(Stopped):
        fit_stopping(
            tmp_path / "run", Stopping(train_loader, stop, lost=True), validation_loader, stop
        )
    found = newest_checkpoint(tmp_path / "run" / "checkpoints", nothing)
    assert found is not None and found[1]["numbers"]["step_in_epoch"] == 3
    assert torch.equal(weights(train(tmp_path / "run", CONFIG, resume=True)), weights(whole))
    with pytest.raises(ChildProcessError):
        fit_stopping(
            tmp_path / "lost", Stopping(train_loader, StopRequest()), validation_loader,
            StopRequest(),
        )  # fmt: skip
