"""A source that is asked: what for, how often again, and what becomes of its failures."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from data.prometheus import Fetcher, Queries, Row, connect
from serve.observations import Observation
from serve.poll import AT_ONCE_SECONDS, OVERLAP, Poller, from_prometheus
from serve.service import Service
from tests.builders import SCHEMA
from tests.fake_prometheus import FakePrometheus, Told, every, running, status
from tests.services import START, STEP, Clock, small_service

NOW = START + 40 * STEP + 60.0
QUERIES = Queries({name: f"avg({name}[$range])" for name in SCHEMA.metric_names}, step_seconds=STEP)


class Source:
    """Stands for a fetcher that has a row of each server for every tick that is over."""

    def __init__(self, servers: Sequence[str] = ("web-1",)) -> None:
        self.servers = servers
        self.queries = QUERIES
        self.asked: list[tuple[float, float]] = []
        self.broken: Exception | None = None
        self.cpu = 20.0

    def latest(self, since: float, now: float) -> list[Row]:
        self.asked.append((since, now))
        if self.broken is not None:
            raise self.broken
        ticks = range(int(since) // STEP, int(now) // STEP)
        values: dict[str, float | None] = {"cpu_percent": self.cpu, "load_average": None}
        return [Row(name, tick, "database", values) for tick in ticks for name in self.servers]


def polled(source: Any, folder: Path) -> tuple[Service, Poller, Clock]:
    clock = Clock(NOW)
    service = small_service(folder, clock)
    service.poll(from_prometheus(cast(Fetcher, source), SCHEMA))
    assert service.poller is not None
    return service, service.poller, clock


def test_an_empty_state_is_filled_with_all_the_history_that_is_kept(tmp_path: Path) -> None:
    source = Source()
    service, poller, _ = polled(source, tmp_path)
    poller.turn()
    begin = NOW - poller.history_seconds
    assert source.asked[0] == (begin, begin + AT_ONCE_SECONDS), "a part after the other"
    assert [each[0] for each in source.asked[1:]] == [each[1] for each in source.asked[:-1]]
    assert source.asked[-1][1] == NOW
    history = service.state.fleet(["web-1"])
    assert history.end_tick == START // STEP + 40
    assert int(history.lengths[0]) == poller.history_seconds // STEP


@pytest.mark.parametrize("after", [0.0, 60.0, 1_799.5, STEP - 0.5])
def test_a_filled_series_has_no_gaps(tmp_path: Path, after: float) -> None:
    """Whatever time of a tick it is: parts end within ticks, which are asked for all the same."""
    with running(FakePrometheus()) as fake:
        for name in SCHEMA.metric_names:
            fake.add(name, every(STEP, 800, START - 700 * STEP), instance="web-1")
        service, poller, clock = polled(Fetcher(Told(fake).client, QUERIES), tmp_path)
        clock.now = START + 40 * STEP + after
        poller.turn()
    history = service.state.fleet(["web-1"])
    assert not np.isnan(history.values).any()
    assert history.end_tick == START // STEP + 40
    assert len(history.values) == poller.history_seconds // STEP


def test_later_only_what_is_new_and_a_little_more_is_asked_for(tmp_path: Path) -> None:
    """Rows that were there already change nothing; those that came late to the source count."""
    source = Source()
    service, poller, clock = polled(source, tmp_path)
    poller.turn()
    clock.now += STEP
    source.asked.clear()
    poller.turn()
    assert source.asked == [((START // STEP + 40 - OVERLAP) * STEP, clock.now)]
    assert service.state.fleet(["web-1"]).end_tick == START // STEP + 41


def test_a_tick_that_was_corrected_is_replaced(tmp_path: Path) -> None:
    """A sample came late to the source; its first answer is no longer true."""
    source = Source()
    service, poller, clock = polled(source, tmp_path)
    poller.turn()
    service.store.close()
    source.cpu = 50.0
    service, poller, clock = polled(source, tmp_path)
    poller.turn()
    cpu = service.state.fleet(["web-1"]).values[:, 0]
    assert cpu[-OVERLAP:].tolist() == [50.0] * OVERLAP and set(cpu[:-OVERLAP]) == {20.0}


@pytest.mark.parametrize("error", [ConnectionError("no answer"), ValueError("a query is refused")])
def test_a_source_that_fails_is_told_and_asked_again(tmp_path: Path, error: Exception) -> None:
    source = Source()
    service, poller, clock = polled(source, tmp_path)
    service.turn()
    source.broken = error
    poller.turn()
    assert service.trouble() == f"the source was not read: {error}"
    source.broken = None
    poller.turn()
    assert service.trouble() is None


def test_its_thread_ends_when_the_service_does(tmp_path: Path) -> None:
    source = Source()
    service, poller, _ = polled(source, tmp_path)
    service.start()
    service.stop()
    assert source.asked, "it asks as soon as it starts"


def test_it_ends_soon_when_it_waits_to_ask_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with running(FakePrometheus()) as fake:
        fake.faults = [status(503, Retry_After="3600")] * 9
        waits, stopping = threading.Event(), threading.Event()
        client = connect(fake.url, say=lambda line: waits.set(), stopping=stopping)
        service = small_service(tmp_path, Clock(NOW))
        service.poll(from_prometheus(Fetcher(client, QUERIES), SCHEMA), stopping)
        service.start()
        assert waits.wait(30)
        began = time.monotonic()
        service.stop()
    assert time.monotonic() - began < 5, "the making of an outlook included"
    assert len(fake.queries) == 1 and not caplog.records


def test_servers_whose_names_nobody_could_ask_for_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = Source(["web-1", "web 2", "10.0.0.1:9100"])
    service, poller, clock = polled(source, tmp_path)
    poller.turn()
    assert service.state.roster().servers == ("10.0.0.1:9100", "web-1")
    assert [r.getMessage() for r in caplog.records if "web 2" in r.getMessage()] == [
        "server 'web 2' is left out, its name has other characters than allowed"
    ], "once"


def test_queries_for_another_model_are_refused() -> None:
    source = Source()
    source.queries = replace(source.queries, step_seconds=300)
    with pytest.raises(ValueError, match="steps of 300 s, the model's are of 3600 s"):
        from_prometheus(cast(Fetcher, source), SCHEMA)
    source.queries = Queries({"cpu_percent": "avg(x[$range])"}, step_seconds=STEP)
    with pytest.raises(ValueError, match="the queries give cpu_percent; name a file .* --queries"):
        from_prometheus(cast(Fetcher, source), SCHEMA)


def test_rows_become_observations() -> None:
    (first, *_) = from_prometheus(cast(Fetcher, Source()), SCHEMA)(
        START + 1.0 * STEP, START + 3.0 * STEP
    )
    assert first == Observation(
        "web-1", (START + STEP) * 1000, "database", {"cpu_percent": 20.0, "load_average": None}
    )
