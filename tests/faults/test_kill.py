"""Nothing is lost when the process is killed with kill -9.

The short form runs with the tests; `FAULT_ROUNDS=50 python -m pytest tests/faults` is the long one
and counts at its end.
"""

import random
import time
from pathlib import Path

import pytest

from tests.faults.conftest import Train, Whole
from tests.faults.processes import (
    EPOCHS,
    ROUNDS,
    STEPS,
    Started,
    assert_same,
    inside_a_save,
    kills,
    newest_step,
)

INSIDE = max(1, 15 * ROUNDS // 50)
TRIES = 20  # kills aimed at one save, or at one instant, before the test gives up


def resume(train: Train, run: Path) -> Started:
    process = train(run, "--resume")
    assert process.wait() == 0, process.errors
    assert process.output.splitlines()[-1] == str(run)
    return process


def count(run: Path) -> bool:
    """Count a kill, and tell whether it fell into a save."""
    inside = inside_a_save(run)
    kills.update(tried=1, inside=inside)
    return inside


@pytest.mark.parametrize("seed", range(ROUNDS - INSIDE))
def test_at_any_instant(train: Train, whole: Whole, tmp_path: Path, seed: int) -> None:
    """From the making of the run directory on; later kills hit steps, saves and validations."""
    draw = random.Random(seed)
    for attempt in range(TRIES):  # a process that is quicker than the first may end unharmed
        run = tmp_path / str(attempt)
        process = train(run)
        process.wait_for(run.exists)
        time.sleep(draw.uniform(0, whole.seconds))
        if process.kill():
            break
    else:
        pytest.fail(f"{TRIES} trainings ended before they could be killed")
    count(run)
    begun = newest_step(run) > 0
    assert ("resuming at epoch" in resume(train, run).errors) == begun
    assert_same(whole.run, run)
    kills.update(resumed=1)


@pytest.mark.parametrize("seed", range(INSIDE))
def test_inside_a_save(train: Train, whole: Whole, tmp_path: Path, seed: int) -> None:
    """The half-written file that stays behind is the proof; without it the kill came too late.

    Too late, the training goes on and is killed at a later save.
    """
    draw = random.Random(1000 + seed)
    run, hit, tried = tmp_path / "0", False, 0
    for attempt in range(1, TRIES):
        target = newest_step(run) + draw.randrange(EPOCHS * STEPS // 4)
        process = train(run, "--resume")
        process.wait_for(lambda run=run, target=target: newest_step(run) >= target)
        process.wait_for(lambda run=run: inside_a_save(run), pause=0.0)
        if process.kill():
            tried += 1
            if hit := count(run):
                break
        else:  # it had ended: begin another
            assert_same(whole.run, run)
            kills.update(resumed=tried)
            run, tried = tmp_path / str(attempt), 0
    assert hit, "no kill fell into a save"
    resume(train, run)
    assert_same(whole.run, run)
    kills.update(resumed=tried)
