"""A process that takes rows in and says so, until it is killed."""

import os
import random
import signal
from multiprocessing.connection import Connection
from pathlib import Path

from serve.observations import Observation
from tests.feeds import START, row, state


def batch(seed: int, number: int) -> list[Observation]:
    """Return the rows of a batch: new ticks, late ones and known ones, of servers old and new."""
    draw = random.Random(f"{seed} {number}")
    return [
        row(
            f"server{draw.randrange(3 + number // 5)}",
            START + number // 3 - draw.choice([0, 0, 0, 1, 5, 60]),
            draw.choice([0, 0, 10]),
            cpu=draw.choice([1.0, 2.5, 70.0, None]),
            profile=draw.choice(["web_api", "database", None]),
        )
        for _ in range(draw.choice([1, 20, 300]))
    ]


def feed(folder: Path, seed: int, first: int, steps: int, answers: Connection) -> None:
    """Take in batches from a number on, and answer with the number of each that was accepted.

    Args:
        folder: of the state.
        seed: of the batches.
        first: number of the first batch.
        steps: of SQLite's work, after which the process kills itself; 0: it does not.
        answers: where the numbers are sent.
    """
    fed = state(folder)
    if steps:
        fed._store._db.set_progress_handler(lambda: os.kill(os.getpid(), signal.SIGKILL), steps)
    answers.send(first - 1)  # it has loaded
    for number in range(first, first + 10_000):
        fed.accept(batch(seed, number))
        answers.send(number)
