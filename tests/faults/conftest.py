"""A table, a training that was left alone, and a way to start others."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.builders import small_table
from tests.faults.processes import (
    Started,
    Starter,
    arguments,
    feeds,
    hostile,
    kills,
    service_kills,
)

Train = Callable[..., Started]


class Whole(NamedTuple):
    """A training that was left alone."""

    run: Path
    seconds: float
    """From the making of its run directory to its end."""


@pytest.fixture(scope="session")
def starter() -> Iterator[Starter]:
    starter = Starter()
    yield starter
    starter.close()


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "fleet.parquet"
    small_table().to_parquet(path)
    return path


@pytest.fixture
def train(starter: Starter, table: Path) -> Iterator[Train]:
    """Start a training in a run directory, with further arguments."""
    started: list[Started] = []

    def train(run: Path, *more: str | Path) -> Started:
        started.append(starter.start(*arguments(table, run, *more)))
        return started[-1]

    yield train
    for process in started:
        process.kill()


@pytest.fixture(scope="session")
def whole(starter: Starter, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    run = tmp_path_factory.mktemp("runs") / "whole"
    process = starter.start(*arguments(table, run))
    process.wait_for(run.exists)
    began = time.monotonic()
    assert process.wait() == 0, process.errors
    return Whole(run, time.monotonic() - began)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if kills:
        terminalreporter.write_line(
            f"kill -9: {kills['tried']} tried, {kills['resumed']} resumed bit for bit, "
            f"{kills['inside']} inside a save"
        )
    if service_kills:
        terminalreporter.write_line(
            f"kill -9 of the service: {service_kills['tried']} tried, {service_kills['inside']} "
            f"inside a feed, {service_kills['acknowledged']:,} acknowledged ticks all there"
        )
    if hostile:
        counts = ", ".join(f"{name}: {count:,}" for name, count in sorted(hostile.items()))
        terminalreporter.write_line(f"hostile requests: {counts}")
    if feeds:
        terminalreporter.write_line(
            f"kill -9 of a feed: {feeds['kills']}, {feeds['batches']} batches acknowledged and "
            f"all held, {feeds['unheard']} more held whose answer was not heard"
        )
