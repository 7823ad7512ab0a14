"""What holds for every test."""

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Before torch is imported: several test processes that share the cores would wait for each other's
# threads at every operation.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run: a failure is the change's, not the draw's.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """A command that stops on request keeps its handlers, as its process is about to end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
