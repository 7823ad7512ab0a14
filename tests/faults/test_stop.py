"""Asked to stop, training saves after the step at hand; asked twice, it goes at once."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Train, Whole
from tests.faults.processes import LONG, STEPS, assert_same, newest_step, wait_until
from train.lock import LOCK, RunLock

SOON = 10.0  # seconds in which it must have saved and gone
SELDOM = ("--set", "checkpoint_minutes=60")  # no checkpoint within an epoch unless asked to stop
# One step of seconds, most of them in a single operation: the backward pass.
LONG_STEPS = ("--set", "batch_size=800", "--set", "windows_per_epoch=800", "--set",
              "hidden_size=160", "--set", "patch_length=1")  # fmt: skip
REQUESTS = [(signal.SIGTERM, 0), (signal.SIGINT, 2), (signal.SIGTERM, 2), (signal.SIGINT, 0)]


@pytest.mark.parametrize(("number", "workers"), REQUESTS if LONG else REQUESTS[:2])
def test_asked_to_stop_it_saves_and_says_so(
    train: Train, whole: Whole, tmp_path: Path, number: signal.Signals, workers: int
) -> None:
    """A terminal's Ctrl-C reaches loader workers too; timeout(1) sends each signal twice."""
    run = tmp_path / "run"
    # How long workers take to start is nobody's to say: with them, a checkpoint tells of a step.
    process = train(run, *(() if workers else SELDOM), "--set", f"num_workers={workers}")
    process.wait_for(lambda: newest_step(run) if workers else any((run / "logs").glob("*")))
    time.sleep(0.05)
    os.kill(process.pid, number)
    time.sleep(0.02)
    os.killpg(process.pid, number)
    wait_until(lambda: "stopped by" in process.errors or process.ended, SOON)
    process.send(number)  # while Python winds up
    assert process.wait(SOON) == 128 + number, process.errors
    assert process.errors.splitlines()[-1] == f"stopped by {number.name}; go on with --resume"
    assert process.output == ""
    assert 0 < newest_step(run) < STEPS, "saved because it was asked to, in the first epoch"
    process = train(run, "--resume", *SELDOM)
    assert process.wait() == 0, process.errors
    assert_same(whole.run, run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT] if LONG else [signal.SIGTERM])
def test_asked_twice_it_goes_at_once(train: Train, tmp_path: Path, number: signal.Signals) -> None:
    """In the middle of a long step, which is not finished; the checkpoint before it loads."""
    run = tmp_path / "run"
    process = train(run, *LONG_STEPS)
    process.wait_for(lambda: "before training" in process.errors)
    began = time.monotonic()
    process.wait_for(lambda: newest_step(run) == 1)
    time.sleep(0.45 * (time.monotonic() - began))  # into the backward pass of the second step
    process.send(number)
    time.sleep(0.4)
    assert not process.ended, "the first request was to wait for the step"
    process.send(number)
    assert process.wait(SOON) in (-number, 128 + number)
    assert "stopped by" not in process.errors and newest_step(run) == 1
    process = train(run, *LONG_STEPS, "--resume")
    process.wait_for(lambda: "resuming" in process.errors)
    assert "resuming at epoch 2, step 1, from step-000000001-" in process.errors


@pytest.mark.parametrize("how", [("--resume",), ()])
def test_two_processes_on_one_run(train: Train, tmp_path: Path, how: tuple[str, ...]) -> None:
    """The second is refused, and told who the first is; killed, the first is not in the way."""
    run = tmp_path / "run"
    first = train(run)
    first.wait_for(lambda: newest_step(run) > 0)
    second = train(run, *how)
    assert second.wait() == 2
    (line,) = [line for line in second.errors.splitlines() if line.startswith("Error: ")]
    assert f"run directory {run} is in use by process {first.pid} on" in line
    assert not first.ended, "the first was to be still at work"
    assert first.kill()
    assert f"process {first.pid} " in (run / LOCK).read_text(), "the stale lock is there"
    RunLock(run).release()
