"""No acknowledged row is lost when the process that took it in is killed with kill -9.

The short form runs with the tests; `FAULT_ROUNDS=50 python -m pytest tests/faults` is the long one.
"""

import multiprocessing
import random
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from data.fleet import Fleet
from serve.state import FleetState
from tests.faults.feeder import batch, feed
from tests.faults.processes import LIMIT, ROUNDS, feeds, wait_until
from tests.feeds import state

KILLS = 4  # of one state, one after the other
SPAN = 0.5  # seconds in which a kill falls
WORK = 20_000  # steps of SQLite's work in which one does

# A process that has imported everything once gives birth to the others.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.faults.feeder"])


def killed_feeder(folder: Path, seed: int, first: int, draw: random.Random, inside: bool) -> int:
    """Feed from a batch on until killed; return the number of the last one acknowledged."""
    answers, sent = processes.Pipe(duplex=False)
    steps = draw.randrange(1, WORK) if inside else 0
    process = processes.Process(target=feed, args=(folder, seed, first, steps, sent))
    process.start()
    sent.close()
    heard = [first - 1]

    def listen() -> None:
        with suppress(EOFError):
            while True:
                heard.append(answers.recv())

    listener = threading.Thread(target=listen)
    listener.start()
    if not inside:
        if draw.random() < 0.8:  # others may die while they load
            wait_until(lambda: len(heard) > 1)
        time.sleep(draw.uniform(0, SPAN))
        process.kill()
    process.join(LIMIT)
    assert process.exitcode == -9, "it was to be killed"
    listener.join()  # what was sent before it died is still in the pipe
    return heard[-1]


def alike(one: Fleet, other: Fleet) -> bool:
    columns = ("values", "offsets", "first_tick", "static")
    same = [np.array_equal(getattr(one, c), getattr(other, c), equal_nan=True) for c in columns]
    return all(same) and (one.servers, one.profiles) == (other.servers, other.profiles)


def acknowledged_is_held(found: FleetState, expected: FleetState, seed: int, last: int) -> int:
    """Check a state after a kill and return its last batch, which nobody may have heard of."""
    if alike(found.fleet(), expected.fleet()):
        return last
    expected.accept(batch(seed, last + 1))
    assert alike(found.fleet(), expected.fleet()), f"of batches up to {last} something is missing"
    return last + 1


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("seed", range(-(-ROUNDS // (2 * KILLS))))
def test_acknowledged_rows_survive(tmp_path: Path, seed: int, inside: bool) -> None:
    """Killed at any time, or inside a transaction; then the next process goes on from there."""
    draw = random.Random(f"{seed} {inside}")
    expected, number = state(tmp_path / "expected"), 0
    expected._store._db.execute("PRAGMA synchronous = OFF")  # nobody kills this one
    for _ in range(KILLS):
        last = killed_feeder(tmp_path / "fed", seed, number, draw, inside)
        for each in range(number, last + 1):
            expected.accept(batch(seed, each))
        found = state(tmp_path / "fed")
        held = acknowledged_is_held(found, expected, seed, last)
        found._store.close()
        feeds.update(kills=1, batches=last - number + 1, unheard=held - last)
        number = held + 1
    assert number > 0, "nothing was ever acknowledged"
