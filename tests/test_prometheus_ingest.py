"""A folder of days from a Prometheus: read back, completed, gone on with, and never mixed up."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.prometheus import Queries, ingest
from data.reading import read_fleet
from tests.fake_prometheus import (
    DAY,
    QUERIES,
    SPEC,
    FakePrometheus,
    Told,
    every,
    running,
    send,
    status,
    two_servers,
)
from tests.tables import MIDNIGHT, same


@pytest.fixture
def fake() -> Iterator[FakePrometheus]:
    with running(FakePrometheus()) as fake:
        yield fake


def ask(fake: FakePrometheus, out: Path, now: float = MIDNIGHT + 2.5 * DAY, **options):
    return ingest(Told(fake).client, 2, out, QUERIES, lambda: now, **options)


def test_a_folder_reads_back_as_it_was(fake: FakePrometheus, tmp_path: Path) -> None:
    two_servers(fake)
    fetched = ask(fake, tmp_path / "out")
    assert (fetched.days, fetched.days_kept, fetched.rows) == (3, 0, 720 + 708)
    assert fetched.values == {"load": 1428, "queue": 658} and fetched.servers == 2
    fleet = read_fleet(tmp_path / "out", SPEC).fleet
    assert fleet.servers == ("a:9100", "b:9100")
    np.testing.assert_array_equal(fleet.series(0)[:, 0], np.arange(720, dtype="f4") / 4)
    assert np.flatnonzero(np.isnan(fleet.series(1)[:, 0])).tolist() == list(range(100, 112))
    assert len(list((tmp_path / "out").glob("day=2024-01-0?/*.parquet"))) == 3


def test_a_later_run_asks_only_for_what_is_new(fake: FakePrometheus, tmp_path: Path) -> None:
    two_servers(fake)
    ask(fake, tmp_path / "whole")
    ask(fake, tmp_path / "out", now=MIDNIGHT + 1.25 * DAY)
    fake.queries.clear()
    fetched = ask(fake, tmp_path / "out")
    assert min(float(q["start"]) for q in fake.queries) > MIDNIGHT + 1.25 * DAY
    assert (fetched.days, fetched.days_kept) == (2, 1)
    one, other = (read_fleet(tmp_path / name, SPEC).fleet for name in ("out", "whole"))
    same(one, other)
    fake.queries.clear()
    assert ask(fake, tmp_path / "out").days == 0 and fake.queries == []


def test_days_without_a_value_leave_no_file_and_are_asked_for_again(
    fake: FakePrometheus, tmp_path: Path
) -> None:
    two_servers(fake)
    for _ in range(2):
        fetched = ask(fake, tmp_path, now=MIDNIGHT + 0.5 * DAY)
        assert fetched.days_empty == ("2023-12-30", "2023-12-31")
    assert fetched.days_kept == 1 and len(list(tmp_path.glob("day=*"))) == 1
    fake.add("load", every(300, 10, MIDNIGHT - DAY), instance="a:9100")
    assert ask(fake, tmp_path, now=MIDNIGHT + 0.5 * DAY).rows == 10
    assert read_fleet(tmp_path, SPEC).fleet.lengths.tolist() == [288 + 144, 144]


def test_no_value_at_all_is_an_error_that_binds_to_nothing(
    fake: FakePrometheus, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="no value for any query, in 3 days"):
        ask(fake, tmp_path)
    fake.add("work", every(300, 720), instance="a")
    other = Queries({"load": "max_over_time(work[$range])", "queue": "f(queue[$range])"})
    fetched = ingest(Told(fake).client, 2, tmp_path, other, lambda: MIDNIGHT + 2.5 * DAY)
    assert fetched.rows == 720
    assert "queue: 0 values; does its query match?" in fetched.lines()


def test_what_was_fetched_before_a_failure_is_kept(fake: FakePrometheus, tmp_path: Path) -> None:
    two_servers(fake)
    ask(fake, tmp_path / "whole")
    fine = [lambda handler: send(handler, *fake.answer("", fake.queries[-1]))] * 3
    fake.faults = [*fine, *[status(500)] * 6]
    with pytest.raises(ConnectionError, match="what was fetched is kept"):
        ask(fake, tmp_path / "out")
    fetched = ask(fake, tmp_path / "out")
    assert (fetched.days, fetched.days_kept) == (2, 1)
    same(*(read_fleet(tmp_path / name, SPEC).fleet for name in ("out", "whole")))


def test_a_run_killed_before_a_file_has_its_name_goes_on(
    fake: FakePrometheus, tmp_path: Path
) -> None:
    two_servers(fake)
    ask(fake, tmp_path / "whole")
    code = f"""
import os, signal
from data.prometheus import connect, ingest
from tests.fake_prometheus import DAY, MIDNIGHT, QUERIES
rename, left = os.replace, ['_ingest.json', 'the first day']
def killed(old, new):
    if not left: os.kill(os.getpid(), signal.SIGKILL)
    left.pop()
    rename(old, new)
os.replace = killed
ingest(connect("{fake.url}"), 2, {str(tmp_path / "out")!r}, QUERIES,
       lambda: MIDNIGHT + 2.5 * DAY)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent)
    assert ended.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "out").rglob(".*.tmp"))) == 1
    assert len(read_fleet(tmp_path / "out", SPEC).fleet.values) == 2 * 288
    fetched = ask(fake, tmp_path / "out")
    assert (fetched.days, fetched.days_kept) == (2, 1)
    same(*(read_fleet(tmp_path / name, SPEC).fleet for name in ("out", "whole")))
    assert not list((tmp_path / "out").rglob(".*.tmp"))


def test_a_folder_is_one_runs_at_a_time(fake: FakePrometheus, tmp_path: Path) -> None:
    two_servers(fake)

    def second(share: float) -> None:
        with pytest.raises(ValueError, match="another ingest is writing"):
            ask(fake, tmp_path)

    ask(fake, tmp_path, progress=second)


def test_a_folder_holds_the_answers_to_one_set_of_queries(
    fake: FakePrometheus, tmp_path: Path
) -> None:
    two_servers(fake)
    ask(fake, tmp_path)
    other = replace(QUERIES, step_seconds=60)
    with pytest.raises(ValueError, match=r"made with step_seconds = 300, asked for now is 60"):
        ingest(Told(fake).client, 2, tmp_path, other)


def test_a_folder_of_somebody_else_is_left_alone(fake: FakePrometheus, tmp_path: Path) -> None:
    (tmp_path / "fleet.csv").write_text("mine")
    with pytest.raises(ValueError, match=r"holds fleet.csv, which no ingest wrote"):
        ask(fake, tmp_path)
    with pytest.raises(ValueError, match=r"fleet.csv is a file"):
        ask(fake, tmp_path / "fleet.csv")
    assert [path.name for path in tmp_path.iterdir()] == ["fleet.csv"]


def test_a_folder_with_a_damaged_file_says_which(fake: FakePrometheus, tmp_path: Path) -> None:
    two_servers(fake)
    ask(fake, tmp_path)
    file = tmp_path / "day=2024-01-02" / "metrics.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"day=2024-01-02/metrics.parquet is damaged.*remove"):
        ask(fake, tmp_path)
