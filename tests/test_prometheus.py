"""Fetching from a Prometheus that fails, refuses, breaks off, repeats itself or knows nothing."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.prometheus import Client, Endpoint, Fetcher, connect, ingest, read_queries
from data.prometheus.client import LONGEST_PAUSE, TooLargeError
from data.reading import TableSpec, read_fleet
from tests.fake_prometheus import (
    DAY,
    FIRST,
    QUERIES,
    SPEC,
    FakePrometheus,
    Handler,
    Told,
    every,
    failure,
    running,
    send,
    status,
    success,
    two_servers,
)
from tests.tables import MIDNIGHT, rows, same


@pytest.fixture
def fake() -> Iterator[FakePrometheus]:
    with running(FakePrometheus()) as fake:
        yield fake


class TestTicks:
    def test_values_are_the_sources_and_gaps_stay_gaps(self, fake: FakePrometheus) -> None:
        fake.add("load", {at: v for at, v in every(300, 10).items() if v != 1.0}, instance="a")
        block = Told(fake).fetcher.block(FIRST, FIRST + 12)
        assert block.servers == ("a",)
        expected = [0, 0.25, 0.5, 0.75, None, 1.25, 1.5, 1.75, 2, 2.25, None, None]
        np.testing.assert_array_equal(block.values[0, :, 0], np.array(expected, float))
        assert np.isnan(block.values[0, :, 1]).all()

    @pytest.mark.parametrize("left_open", [False, True])
    def test_a_sample_belongs_to_the_tick_the_reader_gives_it(
        self, fake: FakePrometheus, left_open: bool, tmp_path: Path
    ) -> None:
        """At both ends of a step and 30 s early, to the millisecond, whichever end a range holds;
        several in a step are their mean."""
        fake.left_open = left_open
        edges = [0, 299_999, 300_000, 269_999, 270_000, 570_000, 1_769_999, 1_800_000, 1_900_000]
        samples = {MIDNIGHT * 1000 + at: 2.0**n for n, at in enumerate(edges)}
        fake.add("load", samples, instance="a")
        fake.add("queue", samples, instance="a")
        ingest(Told(fake).client, 1, tmp_path / "out", QUERIES, lambda: MIDNIGHT + 3000)
        table = tmp_path / "raw.csv"
        lines = [f"{at},a,{value},{value}" for at, value in samples.items()]
        table.write_text(rows(*lines, header="timestamp,server_name,load,queue"))
        same(read_fleet(tmp_path / "out", SPEC).fleet, read_fleet(table, SPEC).fleet)

    def test_a_tick_is_asked_for_only_when_both_clocks_are_past_it(
        self, fake: FakePrometheus
    ) -> None:
        fetcher = Told(fake).fetcher
        assert fetcher.end_tick(MIDNIGHT + 299.9) == FIRST
        assert fetcher.end_tick(MIDNIGHT + 300.1) == FIRST + 1
        fake.now = MIDNIGHT - 1.0
        assert fetcher.end_tick(MIDNIGHT + 300.1) == FIRST - 1

    def test_not_a_number_is_missing_and_infinity_is_handed_on(self, fake: FakePrometheus) -> None:
        values = [1.0, float("nan"), float("inf")]
        fake.add("load", dict(zip(every(300, 3), values, strict=True)), instance="a")
        fetcher = Told(fake).fetcher
        block = fetcher.block(FIRST, FIRST + 3)
        np.testing.assert_array_equal(block.values[0, :, 0], values)
        found = fetcher.latest(MIDNIGHT - 1, MIDNIGHT + 900)
        assert [(row.tick - FIRST, row.values["load"]) for row in found] == [(0, 1.0), (2, None)]

    def test_a_profile_is_that_of_the_newest_series(self, fake: FakePrometheus) -> None:
        fake.add("load", every(300, 3, MIDNIGHT + 900), instance="a", role="new")
        fake.add("load", every(300, 3), instance="a", role="old")
        fake.add("load", every(300, 3), instance="b")
        fetcher = Fetcher(Told(fake).client, replace(QUERIES, profile_label="role"))
        block = fetcher.block(FIRST, FIRST + 6)
        assert dict(zip(block.servers, block.profiles, strict=True)) == {"a": "new", "b": None}
        assert not np.isnan(block.values[0, :, 0]).any()

    def test_the_newest_ticks_for_a_live_service(self, fake: FakePrometheus) -> None:
        two_servers(fake)
        fetcher = Told(fake).fetcher
        found = fetcher.latest(MIDNIGHT + 99 * 300, MIDNIGHT + 101 * 300 + 1)
        told = [(row.server, row.tick - FIRST, row.values) for row in found]
        assert told == [
            ("a:9100", 99, {"load": 24.75, "queue": None}),
            ("b:9100", 99, {"load": 24.75, "queue": 25.75}),
            ("a:9100", 100, {"load": 25.0, "queue": None}),
        ]
        sent = len(fake.queries)
        assert fetcher.latest(MIDNIGHT + 101 * 300, MIDNIGHT + 101 * 300 + 1) == []
        assert len(fake.queries) == sent

    @pytest.mark.parametrize("between", [3_000, 3_001, 3_299.5])
    def test_one_question_goes_on_where_another_ended(
        self, fake: FakePrometheus, between: float
    ) -> None:
        two_servers(fake)
        fetcher = Told(fake).fetcher
        parts = [(MIDNIGHT, MIDNIGHT + between), (MIDNIGHT + between, MIDNIGHT + 6_000)]
        found = [row for since, now in parts for row in fetcher.latest(since, now)]
        assert found == fetcher.latest(MIDNIGHT, MIDNIGHT + 6_000)


class TestFailures:
    @pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
    def test_a_busy_server_is_asked_again(self, fake: FakePrometheus, code: int) -> None:
        fake.add("load", every(300, 3), instance="a")
        busy = failure("unavailable", "busy replaying")
        fake.faults = [status(code), status(code, busy)]
        fake.faults += [status(code, Retry_After="7"), status(code, Retry_After="86400")]
        told = Told(fake)
        block = told.fetcher.block(FIRST, FIRST + 3)
        np.testing.assert_array_equal(block.values[0, :, 0], [0, 0.25, 0.5])
        assert told.pauses == [0.5, 1.0, 7.0, LONGEST_PAUSE]
        assert "busy replaying" in told.lines[1] and told.client.retries == 4

    def test_an_answer_that_breaks_off_is_asked_for_again(self, fake: FakePrometheus) -> None:
        fake.add("load", every(300, 3), instance="a")
        cut = json.dumps(success({"resultType": "matrix", "result": []}))[:-9]
        fake.faults = [
            lambda handler: send(handler, 200, cut),
            lambda handler: send(handler, 200, cut, length=len(cut) + 9),
            lambda handler: send(handler, 200, "not gzip", Content_Encoding="gzip"),
            lambda handler: handler.connection.close(),
        ]
        told = Told(fake)
        np.testing.assert_array_equal(
            told.fetcher.block(FIRST, FIRST + 3).values[0, :, 0], [0, 0.25, 0.5]
        )
        assert len(told.lines) == 4 and "breaks off" in told.lines[0]

    def test_a_server_that_hangs_is_given_up(self, fake: FakePrometheus) -> None:
        fake.faults = [lambda handler: handler.rfile.read(1)] * 9
        told = Told(fake, timeout_seconds=0.05, attempts=2)
        with pytest.raises(ConnectionError, match="failed 2 times, last: .*timed out.*load"):
            told.fetcher.block(FIRST, FIRST + 3)
        assert fake.queries[0]["timeout"] == "50ms"

    def test_once_it_is_to_stop_it_neither_waits_nor_asks(self, fake: FakePrometheus) -> None:
        """A service that ends is not kept by a Prometheus that asks for an hour's patience."""
        stopping = threading.Event()

        def stop(handler: Handler) -> None:
            stopping.set()
            send(handler, 503, "no", Retry_After="3600")

        fake.faults = [stop]
        client = connect(fake.url, stopping=stopping)
        began = time.monotonic()
        with pytest.raises(InterruptedError, match="asked nothing more"):
            Fetcher(client, QUERIES).block(FIRST, FIRST + 3)
        assert time.monotonic() - began < 5 and len(fake.queries) == 1

    def test_nobody_there(self) -> None:
        client = Client(Endpoint("http://127.0.0.1:9"), sleep=lambda seconds: None)
        with pytest.raises(ConnectionError, match="127.0.0.1:9 failed 6 times.*refused"):
            Fetcher(client, QUERIES).end_tick(0)

    @pytest.mark.parametrize("code", [400, 404, 422])
    def test_a_refused_query_is_not_repeated(self, fake: FakePrometheus, code: int) -> None:
        fake.faults = [status(code, failure("bad_data", "1:9: parse error"))]
        told = Told(fake)
        with pytest.raises(ValueError, match=r"refuses the query avg.*load.*parse error"):
            told.fetcher.block(FIRST, FIRST + 3)
        assert len(fake.queries) == 1

    @pytest.mark.parametrize(
        "answer",
        [
            success({"resultType": "vector", "result": []}),
            success({"resultType": "matrix", "result": [{"metric": {}, "histograms": [[1, {}]]}]}),
            success({"resultType": "matrix", "result": [{"metric": {}, "values": [[1, "one"]]}]}),
            success({"resultType": "matrix", "result": [{"metric": {}, "values": [1]}]}),
            success({"resultType": "matrix", "result": None}),
            success(None),
            {"status": "success"},
            {"no": "status"},
            "<html>please log in</html>",
            "[]",
        ],
    )
    def test_an_answer_of_another_form_is_named(self, fake: FakePrometheus, answer: object) -> None:
        fake.faults = [status(200, answer)] * 9
        with pytest.raises(ValueError, match=r"127.0.0.1:\d+\S* answers .*expected"):
            Told(fake).fetcher.block(FIRST, FIRST + 3)

    def test_times_nobody_asked_for(self, fake: FakePrometheus) -> None:
        series = {"metric": {"instance": "a"}, "values": [[MIDNIGHT + 300, "1"]]}
        fake.faults = [status(200, success({"resultType": "matrix", "result": [series]}))]
        with pytest.raises(ValueError, match="other times than those asked for"):
            Told(fake).fetcher.block(FIRST, FIRST + 3)

    def test_two_values_for_one_server_and_tick(self, fake: FakePrometheus) -> None:
        fake.add("load", every(300, 4), instance="a", job="one")
        fake.add("load", every(300, 2, MIDNIGHT + 600), instance="a", job="two")
        expected = (
            r"query load: server 'a' has two values at 2024-01-01T00:10:00Z.*job=\"two\".*avg"
        )
        with pytest.raises(ValueError, match=expected):
            Told(fake).fetcher.block(FIRST, FIRST + 4)

    def test_a_series_of_no_server(self, fake: FakePrometheus) -> None:
        fake.add("load", every(300, 4), job="one")
        with pytest.raises(
            ValueError, match=r"query load: series \{job=\"one\"\} has no label 'in"
        ):
            Told(fake).fetcher.block(FIRST, FIRST + 4)

    def test_a_warning_of_the_server_is_told_once(self, fake: FakePrometheus) -> None:
        fake.warnings = ["a store is down: partial answer"]
        told = Told(fake)
        told.fetcher.block(FIRST, FIRST + 4)
        assert len(told.lines) == 1 and "warns: a store is down" in told.lines[0]


class TestLimits:
    def test_no_answer_is_asked_for_over_the_limit(self, fake: FakePrometheus) -> None:
        fetcher = Fetcher(Told(fake).client, replace(QUERIES, step_seconds=1))
        fetcher.block(MIDNIGHT, MIDNIGHT + 30_000)
        spans = [float(q["end"]) - float(q["start"]) for q in fake.queries if "load" in q["query"]]
        assert max(spans) < 11_000 and sum(spans) + len(spans) == 30_000

    def test_many_series_are_asked_for_in_shorter_portions(
        self, fake: FakePrometheus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("data.prometheus.fetch.MOST_VALUES", 100)
        monkeypatch.setattr("data.prometheus.fetch.MANY_SERIES", 50)
        for server in range(10):
            fake.add("load", every(300, 40), instance=f"s{server}")
        block = Told(fake).fetcher.block(FIRST, FIRST + 40)
        points = [round((float(q["end"]) - float(q["start"])) / 300) + 1 for q in fake.queries]
        assert points[:5] == [2, 10, 10, 10, 8]
        assert not np.isnan(block.values[:, :, 0]).any() and len(block.servers) == 10

    def test_a_server_with_a_lower_limit_gets_shorter_portions(self, fake: FakePrometheus) -> None:
        fake.add("load", every(300, 40), instance="a")
        fake.most_points = 7
        fake.faults = [status(422, failure("execution", "would load too many samples into memory")),
                       status(503, failure("timeout", "query timed out"))]  # fmt: skip
        told = Told(fake)
        block = told.fetcher.block(FIRST, FIRST + 40)
        np.testing.assert_array_equal(block.values[0, :, 0], np.arange(40) / 4)
        assert told.client.retries == 0

    def test_a_tick_too_large_for_the_server(self, fake: FakePrometheus) -> None:
        fake.most_points = 0
        with pytest.raises(ValueError, match="maximum resolution.*single tick: raise the server's"):
            Told(fake).fetcher.block(FIRST, FIRST + 40)
        assert issubclass(TooLargeError, ValueError)


class TestCredentials:
    @pytest.mark.parametrize(
        ("option", "secret", "header"),
        [
            ("token_env", "s3cret", "Bearer s3cret"),
            ("basic_auth_env", "ann:s3cret", "Basic YW5uOnMzY3JldA=="),
        ],
    )
    def test_come_from_the_environment_and_go_nowhere_else(
        self, fake: FakePrometheus, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
        option: str, secret: str, header: str,
    ) -> None:  # fmt: skip
        two_servers(fake)
        monkeypatch.setenv("PROM", secret)
        client = connect(fake.url, **{option: "PROM"})
        ingest(client, 1, tmp_path, QUERIES, lambda: MIDNIGHT + DAY + 600)
        assert {sent["Authorization"] for sent in fake.headers} == {header}
        assert "s3cret" not in repr(client.endpoint)
        assert not any(b"s3cret" in p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())

    def test_are_not_taken_to_another_server(self, fake: FakePrometheus) -> None:
        with running(FakePrometheus()) as other:
            fake.faults = [status(302, Location=f"{other.url}/api/v1/query_range")]
            told = Told(fake, authorization="Bearer s3cret")
            with pytest.raises(ValueError, match=f"redirects to {other.url}.*name that"):
                told.fetcher.block(FIRST, FIRST + 3)
            assert other.headers == []

    @pytest.mark.parametrize("code", [401, 403])
    def test_refused_ones_are_not_repeated(self, fake: FakePrometheus, code: int) -> None:
        fake.faults = [status(code)]
        with pytest.raises(ValueError, match=f"answers {code}.*--token-env"):
            Told(fake).fetcher.block(FIRST, FIRST + 3)

    def test_options_are_named_as_the_command_names_them(
        self, fake: FakePrometheus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake.faults = [status(401)]
        client = connect(fake.url, option_prefix="--its-")
        with pytest.raises(ValueError, match="--its-token-env, or .* --its-basic-auth-env"):
            Fetcher(client, QUERIES).block(FIRST, FIRST + 3)
        with pytest.raises(ValueError, match="--its-token-env and --its-basic-auth-env exclude"):
            connect(fake.url, "A", "B", option_prefix="--its-")
        with pytest.raises(ValueError, match="with --its-basic-auth-env"):
            connect("http://ann:s3cret@host", option_prefix="--its-")

    @pytest.mark.parametrize(
        ("url", "options", "expected"),
        [
            ("http://ann:s3cret@host", {}, "user or password"),
            ("file:///etc/passwd", {}, "expected one such as"),
            ("localhost:9090", {}, "expected one such as"),
            ("http://host:http", {}, "expected one such as"),
            ("http://[::1", {}, "expected one such as"),
            ("http://host/pro metheus", {}, "expected one such as"),
            ("http://host/graph?g0=1", {}, "leave out"),
            ("http://host", {"token_env": "UNSET_VARIABLE"}, "UNSET_VARIABLE is not set"),
            ("http://host", {"basic_auth_env": "NO_COLON"}, "no colon"),
            ("http://host", {"token_env": "A", "basic_auth_env": "B"}, "exclude each other"),
            ("http://host", {"timeout_seconds": 0.0}, "timeout 0"),
        ],
    )
    def test_what_cannot_be_asked_is_refused_before(
        self, monkeypatch: pytest.MonkeyPatch, url: str, options: dict, expected: str
    ) -> None:
        monkeypatch.setenv("NO_COLON", "s3cret")
        with pytest.raises(ValueError, match=expected) as refused:
            connect(url, **options)
        assert "s3cret" not in str(refused.value)


class TestQueries:
    def test_node_exporters_keep_the_profile_asked_for(self, tmp_path: Path) -> None:
        path = tmp_path / "queries.toml"
        path.write_text('profile_label = "role"\nstep_seconds = 60\n')
        queries = read_queries(path)
        assert list(queries.metrics) == list(TableSpec().targets)
        for name in queries.metrics:
            promql = queries.promql(name, 59_999)
            assert "[59999ms]" in promql and "by (instance, role)" in promql and "$" not in promql

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("metrics = 3", "metrics = 3; expected a table"),
            ("[metrics]", "metrics is empty"),
            ("[metrics]\nload = 3", r"metrics.load = 3; expected a text"),
            ("[metrics]\nload = 'load'", r"load = 'load' has no \$range.*stale"),
            ("[metrics]\ntimestamp = 'a[$range]'", "'timestamp' cannot name"),
            ("server_lable = 'a'", "unknown key 'server_lable'.*'server_label' the nearest"),
            ("server_label = 'a b'", "'a b' is no label name"),
            ("step_seconds = 0", "step_seconds 0 must be from 1"),
            ("step_seconds = true", "expected a whole number"),
            ("step_seconds = ", "cannot read .*queries.toml"),
        ],
    )
    def test_an_unusable_file_says_why(self, tmp_path: Path, text: str, expected: str) -> None:
        path = tmp_path / "queries.toml"
        path.write_text(text)
        with pytest.raises(ValueError, match=expected):
            read_queries(path)
