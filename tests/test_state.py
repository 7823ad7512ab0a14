"""The rolling state: what is taken in, what it becomes, what is kept and what is refused."""

import math
import random
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.reading.roles import TableSpec
from data.reading.table import read_fleet
from serve.observations import Observation
from serve.rows import MOST_A_TICK
from serve.store import FILE
from tests.builders import small_fleet
from tests.feeds import (
    KEPT,
    SMALL,
    START,
    again,
    cpu_of,
    equal,
    reasons,
    row,
    state,
    ticks_of,
)
from tests.tables import same

NAN = math.nan


def dirty_rows(draw: random.Random) -> list[Observation]:
    """Return rows off the grid, unordered, several of a tick, of values in and out of bounds."""
    values = [None, -3.0, 0.25, 7.5, 99.5, 240.0, math.inf, math.nan]
    rows = []
    for _ in range(300):
        cells = {name: draw.choice(values) for name in SMALL.metric_names if draw.random() < 0.9}
        tick, server = START + draw.randrange(KEPT), draw.choice("abc")
        seconds = draw.choice([-20, 0, 0.5, 1800])
        profile = {"a": "web_api", "b": "database"}.get(server)
        rows.append(row(server, tick, seconds, values=cells, profile=profile, cores=ord(server)))
    return rows


def test_rows_fed_are_the_rows_of_a_table(tmp_path: Path) -> None:
    """One rule for both: what a model is trained on is what it forecasts from."""
    rows = dirty_rows(random.Random(1))
    frame = pd.DataFrame(
        {
            "timestamp": [each.timestamp_ms for each in rows],
            "server_name": [each.server for each in rows],
            "profile": [each.profile for each in rows],
            "cores": [each.static["cores"] for each in rows],
            **{
                name: np.array([each.values.get(name) for each in rows], float)
                for name in SMALL.metric_names
            },
        }
    )
    frame.to_parquet(tmp_path / "table.parquet")
    table = read_fleet(tmp_path / "table.parquet", TableSpec(), SMALL).fleet
    fed = state(tmp_path)
    for start in range(0, 300, 70):
        receipt = fed.accept(rows[start : start + 70])
        assert (receipt.rejected, receipt.accepted + receipt.duplicates) == (
            (),
            len(rows[start : start + 70]),
        )
    found = fed.fleet()
    for name in ("servers", "profiles", "metrics", "static_names", "step_seconds"):
        assert getattr(found, name) == getattr(table, name)
    np.testing.assert_array_equal(found.static, table.static)
    for server in range(3):  # a table may begin with a row in which all is missing
        length = found.lengths[server]
        assert found.first_tick[server] + length == (table.first_tick + table.lengths)[server]
        np.testing.assert_allclose(found.series(server), table.series(server)[-length:], rtol=1e-6)
        assert np.isnan(table.series(server)[:-length]).all()
    assert fed.sieve.cleaner.clipped["cpu_percent"] > 0 < fed.sieve.cleaner.infinite


ROWS = st.builds(
    row,
    server=st.sampled_from("ab "),
    tick=st.integers(START, START + KEPT + 3),
    seconds=st.sampled_from([-20, 0, 7, 1799.5]),
    values=st.dictionaries(
        st.sampled_from(SMALL.metric_names),
        st.sampled_from([None, -1.0, 0.1, 0.2, 0.7, 33.3, 1e30, math.inf]),
    ),
)


@settings(max_examples=25)
@given(st.lists(ROWS, min_size=1, max_size=25), st.randoms(use_true_random=False))
def test_neither_order_nor_repetition_leaves_a_trace(rows: list[Observation], draw) -> None:
    """Sorted and once each, or shuffled, repeated, in batches, with a restart: bit for bit."""
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        tidy = state(Path(one))
        unique = [each for index, each in enumerate(rows) if each not in rows[:index]]
        tidy.accept(sorted(unique, key=lambda each: (each.timestamp_ms, each.server)))
        fed = state(Path(other))
        shuffled = draw.sample(rows + draw.choices(rows, k=10), len(rows) + 10)
        while shuffled:
            size = draw.randrange(1, 9)
            fed.accept(shuffled[:size])
            shuffled = shuffled[size:]
            if draw.random() < 0.1:
                fed = again(fed, Path(other))
        same(tidy.fleet(), fed.fleet())
        fed = again(fed, Path(other))
        same(tidy.fleet(), fed.fleet())


def test_a_row_sent_again_changes_nothing(tmp_path: Path) -> None:
    fed = state(tmp_path)
    rows = [row("a"), row("b"), row("a", START + 1)]
    assert fed.accept(rows).accepted == 3
    before = fed.roster()
    receipt = fed.accept([*rows, rows[0]])
    assert (receipt.accepted, receipt.duplicates, receipt.late, receipt.rejected) == (0, 4, 0, ())
    assert (fed.roster().revision == before.revision).all()


def test_rows_of_one_tick_become_their_mean_and_a_retry_does_not_weigh_twice(
    tmp_path: Path,
) -> None:
    fed = state(tmp_path)
    fed.accept([row(cpu=10, seconds=5)])
    fed.accept([row(cpu=40, seconds=60)])
    fed.accept([row(cpu=10, seconds=5), row(cpu=None, seconds=90)])
    assert cpu_of(fed) == [25]
    assert cpu_of(again(fed, tmp_path)) == [25]


def test_a_source_asked_again_replaces_what_it_had_answered(tmp_path: Path) -> None:
    """The first answer lacked a sample; it is wrong, not one of two to be averaged."""
    fed = state(tmp_path)
    fed.accept([row(cpu=90, seconds=60)])
    answer = [row(name, cpu=10) for name in "ab"]
    fed.accept(answer, replacing=True)
    before = fed.roster()
    assert fed.accept(answer, replacing=True).duplicates == 2
    assert (fed.roster().revision == before.revision).all()
    receipt = fed.accept([row("a", cpu=40), row("b", cpu=10)], replacing=True)
    assert (receipt.accepted, receipt.duplicates) == (1, 1)
    assert fed.roster().revision[0] > before.revision[0], "its forecast must be made again"
    fed.accept([row("b", cpu=20)])
    assert cpu_of(fed, "b") == [15], "a sender's, at the same time"
    fed.accept([row("b", cpu=10)], replacing=True)
    fed.accept([row("a", cpu=40)])
    for each in (fed, again(fed, tmp_path)):
        assert cpu_of(each) == [65], "with what another sender says of another time"
        assert cpu_of(each, "b") == [10]


def test_gaps_stay_gaps_until_a_late_row_fills_them(tmp_path: Path) -> None:
    fed = state(tmp_path)
    fed.accept([row(tick=START), row(tick=START + 3)])
    assert equal(cpu_of(fed), [1, NAN, NAN, 1])
    before = fed.roster().revision[0]
    receipt = fed.accept([row(tick=START + 2, cpu=5), row(tick=START + 4)])
    assert (receipt.accepted, receipt.late) == (2, 1)
    assert equal(cpu_of(fed), [1, NAN, 5, 1, 1])
    assert fed.roster().revision[0] > before, "its forecast must be made again"
    assert equal(cpu_of(again(fed, tmp_path)), [1, NAN, 5, 1, 1])


def test_a_gap_of_as_many_ticks_as_are_kept_shows_nothing_older(tmp_path: Path) -> None:
    """The place of a tick that has left is taken by a later one."""
    fed = state(tmp_path)
    fed.accept([row(tick=START + i, cpu=9) for i in range(6)])
    fed.accept([row("b", START + KEPT + 1), row(tick=START + KEPT + 1, cpu=7)])
    expected = [9, 9, 9, 9, *[NAN] * (KEPT - 5), 7]
    assert equal(cpu_of(fed), expected)
    fed.accept([row(tick=START + 3 * KEPT, cpu=7)])
    assert cpu_of(fed) == [7]


def test_a_row_without_values_is_the_last_one_but_no_history(tmp_path: Path) -> None:
    """The next forecast begins after it; a series does not begin with it."""
    fed = state(tmp_path)
    fed.accept([row(tick=START, cpu=None, values={}), row(tick=START + 1)])
    fed.accept([row(tick=START + 3, values={}), row("b", values={})])
    assert ticks_of(fed, "ab") == [(START + 1, START + 3), (START, START)]
    assert fed.roster().lengths.tolist() == [3, 1]


@pytest.mark.parametrize("early_ms", [30_000, 30_001])
def test_a_clock_up_to_half_a_minute_early_belongs_to_the_next_tick(
    tmp_path: Path, early_ms: int
) -> None:
    fed = state(tmp_path)
    fed.accept([row(tick=START, seconds=-early_ms / 1000)])
    assert fed.newest_tick == START - (early_ms > 30_000)


def test_old_ticks_leave_memory_and_disk(tmp_path: Path) -> None:
    """Three times as many ticks as are kept cost no more than once."""
    fed = state(tmp_path)
    sizes = []
    for tick in range(START, START + 3 * KEPT):
        fed.accept([row(server, tick, cpu=tick - START) for server in "abc"])
        sizes.append((fed.memory_bytes, (tmp_path / FILE).stat().st_size))
    assert cpu_of(fed) == [float(cpu) for cpu in np.clip(range(2 * KEPT, 3 * KEPT), 0, 100)]
    assert max(sizes[KEPT:]) == max(sizes[2 * KEPT :])
    with fed._store.transaction() as db:
        first, number = db.execute("SELECT min(tick), count(*) FROM ticks").fetchone()
    assert (first, number) == (START + 2 * KEPT, KEPT)


def test_a_server_that_vanished_is_forgotten_and_its_place_used_again(tmp_path: Path) -> None:
    fed = state(tmp_path)
    for generation in range(6):
        tick = START + generation * KEPT
        rows = [row(f"{generation}-{i}", tick, profile="web_api") for i in range(100)]
        fed.accept([*rows, row("stays", tick)])
    assert len(fed.roster().servers) == 101
    assert fed.memory_bytes < 2 * 128 * KEPT * 3 * 4 + 10_000, "two blocks of servers at most"
    fed.accept([row("stays", START + 5 * KEPT + 1)])
    assert ticks_of(fed, ["5-0", "5-99"]) == [(START + 5 * KEPT,) * 2] * 2
    fed = again(fed, tmp_path)
    assert fed.roster().servers == (*sorted(f"5-{i}" for i in range(100)), "stays")
    fed.accept([row("0-0", START + 5 * KEPT)])
    assert fed.fleet(["0-0"]).profiles == (None,), "who comes back is new"


def test_what_begins_with_a_gap_once_older_ticks_have_left(tmp_path: Path) -> None:
    fed = state(tmp_path)
    fed.accept([row(tick=START), row(tick=START + 9), row("b", START + KEPT - 1)])
    fed.accept([row("b", START + KEPT)])
    assert ticks_of(fed, "a") == [(START + 9, START + 9)]


def test_rows_older_than_what_is_kept_are_rejected(tmp_path: Path) -> None:
    fed = state(tmp_path)
    receipt = fed.accept([row(tick=START), row(tick=START + KEPT), row(tick=START + 1)])
    assert [(each.index, each.reason) for each in receipt.rejected] == [
        (0, "older than the 2 days kept")
    ]
    assert receipt.accepted == 2
    assert reasons(fed, row("new", tick=START)) == ["older than the 2 days kept"]
    assert fed.roster().servers == ("a",)


def test_one_server_cannot_fill_the_disk_nor_many_the_memory(tmp_path: Path) -> None:
    fed = state(tmp_path, most_servers=2)
    fed.accept([row(seconds=i, cpu=i) for i in range(MOST_A_TICK)])
    crowded = f"over {MOST_A_TICK} different rows of its server in one tick"
    assert reasons(fed, row(seconds=99)) == [crowded]
    assert cpu_of(fed) == [(MOST_A_TICK - 1) / 2]
    receipt = fed.accept([row("b"), row("c"), row("b", START + 1), row("a", START + 1)])
    assert [(each.index, each.reason) for each in receipt.rejected] == [
        (1, "the state is full with 2 servers")
    ]
    assert fed.roster().servers == ("a", "b")


def test_the_newest_row_says_what_a_server_is(tmp_path: Path) -> None:
    """In whatever order it comes; what a later row does not mention stays."""
    told = [
        row(tick=START + 2, profile=" web_api ", cores=8),
        row(tick=START + 1, profile="database", cores=4),
        row(tick=START + 2, cpu=2, profile="zzz", cores=9),
        row(tick=START + 3, cores=math.nan),
        row(tick=START + 4, profile=" ", cores=None),
    ]
    for seed in range(5):
        folder = tmp_path / str(seed)
        fed = state(folder)
        for each in random.Random(seed).sample(told, len(told)):
            fed.accept([each])
        for each in (fed, again(fed, folder)):
            fleet = each.fleet()
            assert (fleet.profiles, fleet.static.tolist()) == (("web_api",), [[8]])
            assert each.roster().profiles == ("web_api",)


def test_nothing_fed_is_an_empty_fleet(tmp_path: Path) -> None:
    fed = state(tmp_path)
    assert fed.accept([]).accepted == 0
    fleet = fed.fleet()
    assert (fleet.servers, fleet.values.shape, fleet.static.shape) == ((), (0, 3), (0, 1))
    assert (fed.newest_tick, fed.roster().servers) == (None, ())
    assert fed.fleet(["nobody"]).servers == ()


def test_a_chunk_is_those_asked_for_sorted(tmp_path: Path) -> None:
    fed = state(tmp_path)
    fed.accept([row(server, cpu=ord(server)) for server in "dbca"])
    fleet = fed.fleet(["d", "nobody", "a", "d"])
    assert (fleet.servers, fleet.values[:, 0].tolist()) == (("a", "d"), [97, 100])
    fleet.values[:] = 0
    assert cpu_of(fed, "a") == [97], "the fleet is a copy"


def test_a_table_seeds_the_state(tmp_path: Path) -> None:
    """Ticks fed before keep what they hold; seeding again changes nothing."""
    fleet = small_fleet((60, 30, 2), schema=SMALL)
    fleet.values[70:73] = np.nan  # a gap, of server1
    fleet = replace(fleet, first_tick=START + np.array([0, 25, 58]))
    fed = state(tmp_path)
    fed.accept([row("server1", START + 30, cpu=99, profile="other"), row("x", START + 50)])
    taken = fed.seed(fleet)
    assert taken == KEPT + 30 - 3 - 1 + 2
    expected = fleet.series(1).copy()
    expected[5] = (99, 2, np.nan)
    found = fed.fleet()
    assert found.servers == ("server0", "server1", "server2", "x")
    assert found.profiles == ("database", "web_api", "database", None)
    np.testing.assert_array_equal(found.static[:3], fleet.static)
    np.testing.assert_array_equal(found.series(0), fleet.series(0)[-KEPT:])
    np.testing.assert_array_equal(found.series(1), expected)
    assert found.first_tick.tolist() == [START + 60 - KEPT, START + 25, START + 58, START + 50]
    assert fed.seed(fleet) == 0
    same(fed.fleet(), found)
    same(again(fed, tmp_path).fleet(), found)


def test_a_table_that_ends_without_values_ends_where_it_ends(tmp_path: Path) -> None:
    fleet = small_fleet((5, 5), schema=SMALL)
    fleet.values[[0, 4, 8, 9]] = np.nan
    fed = state(tmp_path)
    fed.seed(replace(fleet, first_tick=np.full(2, START)))
    assert ticks_of(fed, fleet.servers) == [(START + 1, START + 4), (START, START + 4)]


def test_seeding_in_chunks_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = replace(small_fleet(schema=SMALL), first_tick=START + np.arange(3))
    whole, parts = state(tmp_path / "1"), state(tmp_path / "2")
    whole.seed(fleet)
    monkeypatch.setattr("serve.state.ROWS_AT_ONCE", 7)
    parts.seed(fleet)
    same(whole.fleet(), parts.fleet())
    same(again(parts, tmp_path / "2").fleet(), whole.fleet())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": ("a", "b", "c")}, r"has columns .*'a', 'b', 'c'.*read it with the model's"),
        ({"step_seconds": 300}, "step is 300 s, the model's 3600 s"),
        ({"first_tick": np.full(3, 2_000_000)}, "last tick is 2198-.* ahead of the clock, 2096-"),
        ({"servers": ("a", "b", "c")}, "the table has 3 servers, the state is full with 2"),
    ],
)
def test_a_table_of_another_kind_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    fed = state(tmp_path, most_servers=2)
    fleet = replace(small_fleet(schema=SMALL), **{"first_tick": np.full(3, START), **change})
    with pytest.raises(ValueError, match=message):
        fed.seed(fleet)
    assert fed.roster().servers == ()


def test_what_cannot_be_written_is_not_taken_in(tmp_path: Path) -> None:
    """A full disk is told; with room again the same rows are taken."""
    fed = state(tmp_path)
    fed.accept([row(profile="web_api")])
    before = fed.fleet()
    with fed._store.transaction() as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
    fed._store._db.execute(f"PRAGMA max_page_count = {pages}")
    rows = [row(f"server{i}", START + 1, seconds=i / 2) for i in range(1000)]
    with pytest.raises(OSError, match="state.sqlite: database or disk is full; nothing was"):
        fed.accept([*rows, row(tick=START + 1, profile="database")])
    same(fed.fleet(), before)
    assert fed.newest_tick == START
    fed._store._db.execute("PRAGMA max_page_count = 1000000")
    assert fed.accept(rows).accepted == 1000
