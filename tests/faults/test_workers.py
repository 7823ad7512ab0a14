"""A loader worker that is killed, as the system does when memory runs out, ends the training."""

import os
import signal
from pathlib import Path

from tests.faults.conftest import Train, Whole
from tests.faults.processes import Started, assert_same, newest_step, wait_until
from train.lock import RunLock


def children(process: Started) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def test_workers_do_not_hold_the_run_of_a_killed_training(train: Train, tmp_path: Path) -> None:
    """They notice a few seconds later that they are alone."""
    run = tmp_path / "run"
    process = train(run, "--set", "num_workers=2")
    process.wait_for(lambda: newest_step(run) >= 1)
    workers = children(process)
    assert process.kill()
    RunLock(run).release()
    assert any(Path(f"/proc/{worker}").exists() for worker in workers), "or this tests nothing"


def test_a_killed_worker_is_named_and_the_run_can_go_on(
    train: Train, whole: Whole, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = train(run, "--set", "num_workers=2")
    process.wait_for(lambda: newest_step(run) >= 5)
    workers = children(process)
    assert len(workers) == 2
    os.kill(workers[1], signal.SIGKILL)
    assert process.wait(30) == 1, process.errors
    (line,) = [line for line in process.errors.splitlines() if "rror" in line]
    assert line.startswith(f"Error: data loading worker {workers[1]} was lost (SIGKILL)")
    assert "memory" in line and "lower num_workers (2)" in line and "--resume" in line
    assert process.errors.splitlines()[-1] == line, "nothing more is said"
    wait_until(lambda: not Path(f"/proc/{workers[0]}").exists(), 10)
    resumed = train(run, "--resume", "--set", "num_workers=0")
    assert resumed.wait() == 0, resumed.errors
    assert_same(whole.run, run)
