"""Checkpoints: whole, verified, few, and exact to go on from."""

import json
import os
import pickle
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.builders import tiny_forecaster
from tests.test_loop import CONFIG, loaders, records, weights
from tft.bundle import load_forecaster
from tft.forecaster import Forecaster
from train.checkpoint import VERSION, load_checkpoint, newest_checkpoint, save_checkpoint
from train.config import TrainConfig
from train.lock import RunLock
from train.loop import fit
from train.run_dir import RunDirectory
from train.signals import Stopped, StopRequest
from train.state import TrainState
from train.step import StepResult
from train.validate import Validation


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
    torch.save({"version": VERSION, "x": Payload()}, tmp_path / "tmp")
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
    forecaster.unknown_rate = forecaster.calendar_dropout = 0.3  # random numbers, like dropout
    state = TrainState(forecaster, config, "data")
    run = RunDirectory(path, config, resume)
    try:
        if resume:
            found = newest_checkpoint(run.checkpoints, nothing)
            assert found is not None
            torch.manual_seed(999)  # whatever the new process drew before
            state.load_state_dict(found[1])
            run.go_on_from(state)
        stop = None if stop_at is None else StopAt(state, stop_at)
        fit(state, *loaders(per_epoch=80), config, run, stop)
    finally:
        run.close()
    return forecaster


CASES = {
    "plain": CONFIG,
    "accumulation": replace(CONFIG, accumulate_grad_batches=2, epochs=3),
    "fp16 scaler": replace(CONFIG, precision="fp16"),
    "averaging": replace(CONFIG, ema_decay=0.9),
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


def test_what_will_be_done_again_is_forgotten_and_nothing_else(tmp_path: Path) -> None:
    """A half-written last line goes; windows skipped before the step gone on from stay named."""
    run = RunDirectory(tmp_path / "run", CONFIG)
    path = tmp_path / "run" / "metrics.jsonl"
    path.write_text("".join(json.dumps({"epoch": e}) + "\n" for e in (1, 2, 3)) + '{"epo')
    skipped = [{"epoch": e, "step_in_epoch": s} for e, s in ((1, 9), (3, 2), (3, 4), (3, 5))]
    (tmp_path / "run" / "skipped.jsonl").write_text("".join(json.dumps(s) + "\n" for s in skipped))
    for step in (90, 104, 110):
        save_checkpoint(run.checkpoints, {"step": step}, step, 1 / step)
    state = TrainState(tiny_forecaster(), CONFIG)
    state.epoch, state.step_in_epoch, state.step = 3, 4, 104
    run.go_on_from(state)
    run.close()
    assert [record["epoch"] for record in records(tmp_path / "run")] == [1, 2]
    left = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in left] == skipped[:3]
    assert [name[:14] for name in names(run.checkpoints)] == ["step-000000090", "step-000000104"]


def test_lines_that_are_none_are_said_to_be_damaged(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "run", CONFIG)
    (tmp_path / "run" / "metrics.jsonl").write_bytes(b"\x80\x81\n")
    with pytest.raises(ValueError, match="metrics.jsonl: damaged"):
        run.go_on_from(TrainState(tiny_forecaster(), CONFIG))
    run.close()


def test_a_checkpoint_is_not_removed_by_its_own_writing(tmp_path: Path) -> None:
    """Gone back to an older one, a training writes lower numbers than those that lie there."""
    save_checkpoint(tmp_path, {}, 100, 0.5)
    save_checkpoint(tmp_path, {}, 120)
    save_checkpoint(tmp_path, {}, 60)
    assert names(tmp_path) == ["step-000000060", "step-000000100-val-0.5"]


def test_fewer_epochs_than_are_done_end_the_training(tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=4, early_stopping_patience=500)
    train(tmp_path / "run", config)
    train(tmp_path / "run", replace(config, epochs=2), resume=True)
    assert len(records(tmp_path / "run")) == 4


def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path) -> None:
    train(tmp_path / "run", CONFIG)
    with pytest.raises(ValueError, match="trained with weight_decay = 0.01, not 0.5"):
        train(tmp_path / "run", replace(CONFIG, weight_decay=0.5), resume=True)


def test_an_epoch_cut_short_is_remembered_as_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is served is of the part of the epoch that was judged; resuming must know of it."""
    losses = iter([0.9, 0.5, 0.2, 0.3])
    monkeypatch.setattr("train.loop.validate", lambda *_: Validation(next(losses), {}, {}))
    torch.manual_seed(0)
    state, run = TrainState(tiny_forecaster(), CONFIG, "data"), RunDirectory(tmp_path, CONFIG)
    monkeypatch.setattr("train.loop.time", Clock(state))
    result = fit(state, *loaders(per_epoch=80), CONFIG, run, deadline=50.0)
    run.close()
    assert result.out_of_time and (result.best_epoch, result.best_validation_loss) == (2, 0.2)
    served = load_forecaster(tmp_path / "model")
    monkeypatch.undo()
    monkeypatch.setattr("train.loop.validate", lambda *_: Validation(next(losses), {}, {}))
    train(tmp_path, CONFIG, resume=True)
    assert torch.equal(weights(load_forecaster(tmp_path / "model")), weights(served))
    assert records(tmp_path)[-1]["best_val_loss"] == 0.2


class Clock:
    """Time is up after the sixth step."""

    def __init__(self, state: TrainState) -> None:
        self.state, self.now = state, 0.0

    def monotonic(self) -> float:
        self.now += 0.001
        return self.now + (100.0 if self.state.step >= 6 else 0.0)


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
