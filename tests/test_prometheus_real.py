"""Fetching from Debian's Prometheus, filled with a past: what comes back is what went in."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.prometheus import Client, Endpoint, Fetcher, Queries, connect, ingest
from data.reading import TableSpec, read_fleet
from data.synthetic import FleetSpec, generate
from tests.real_prometheus import Sample, fill, needs_prometheus, serving
from tests.tables import MIDNIGHT, same

pytestmark = needs_prometheus
METRICS = TableSpec().targets
SPEC = TableSpec(observed=(), static=())
QUERIES = Queries(
    {name: f"avg_over_time(fleet_{name}[$range])" for name in METRICS}, "server", "profile"
)
DAY, STEP, SCRAPE = 86_400, 300_000, 60_000  # seconds, milliseconds, milliseconds
FIRST = MIDNIGHT // 300
BOOT = MIDNIGHT * 1000 + 21 * STEP + 170_000  # a restart in the middle of a step
EDGES = {0: 1.0, 269_999: 2.0, 270_000: 4.0, 570_000: 8.0, 1_169_999: 16.0}  # ms: value


def fleet_samples(table: pd.DataFrame) -> Iterator[Sample]:
    """Yield a table's cells, each a sample at its tick."""
    for row in table.itertuples():
        for name in METRICS:
            series = f'fleet_{name}{{server="{row.server_name}",profile="{row.profile}"}}'
            yield Sample(series, int(row.timestamp.timestamp() * 1000), getattr(row, name))


def scrapes() -> list[int]:
    """Return when a node_exporter was scraped: two hours, most of one missing, and a restart."""
    every = MIDNIGHT * 1000 + 7_123 + SCRAPE * np.arange(120)
    away = (every >= MIDNIGHT * 1000 + 8 * STEP + 150_000) & (every < BOOT - 540_000)
    booting = (every >= BOOT - 100_000) & (every < BOOT)
    return every[~away & ~booting].tolist()


def counter(mode: int, cpu: int, at: int) -> float:
    """Return seconds of a mode since the last boot; idle is mode 0."""
    seconds = (at - (BOOT if at >= BOOT else MIDNIGHT * 1000 - 1_000_000)) / 1000
    return round(seconds * (0.7 - 0.1 * cpu, 0.2, 0.1 + 0.1 * cpu)[mode] + seconds**1.5 / 900, 3)


def node_gauges(at: int) -> dict[str, float]:
    """Return what node_exporter tells beside counters."""
    minute = (at - MIDNIGHT * 1000) // 60_000
    disk = '{instance="n:9100",mountpoint="%s",fstype="%s"}'
    node = '{instance="n:9100"}'
    return {
        f"node_load1{node}": round(1.0 + minute % 7 / 8, 3),
        f"node_memory_MemAvailable_bytes{node}": 4e9 + 1e6 * minute,
        f"node_memory_MemTotal_bytes{node}": 16e9,
        f"node_filesystem_avail_bytes{disk % ('/', 'ext4')}": 4e10,
        f"node_filesystem_size_bytes{disk % ('/', 'ext4')}": 1e11,
        f"node_filesystem_avail_bytes{disk % ('/data', 'xfs')}": 1e10 - 1e7 * minute,
        f"node_filesystem_size_bytes{disk % ('/data', 'xfs')}": 1e11,
        f"node_filesystem_avail_bytes{disk % ('/snap', 'squashfs')}": 0.0,
        f"node_filesystem_size_bytes{disk % ('/snap', 'squashfs')}": 1e9,
    }


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Return two days of four servers, gaps among them, from 2024 on."""
    counts = {name: 0 for name in FleetSpec().counts}
    counts |= {"database": 2, "web_api": 2}
    spec = FleetSpec(
        hours=48, start=pd.Timestamp(MIDNIGHT, unit="s", tz="UTC").to_pydatetime(), seed=3,
        **{f"num_{name}": count for name, count in counts.items()},
    )  # fmt: skip
    return generate(spec)[0]


@pytest.fixture(scope="module")
def url(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    blocks = tmp_path_factory.mktemp("prometheus") / "blocks"
    fill(blocks, fleet_samples(table))
    edges = (Sample('edge{server="e"}', MIDNIGHT * 1000 + at, v) for at, v in EDGES.items())
    gauges = (Sample(s, at, value) for at in scrapes() for s, value in node_gauges(at).items())
    fill(blocks, [*edges, *gauges])
    series = 'node_cpu_seconds_total{instance="n:9100",cpu="%d",mode="%s"}'
    modes = list(enumerate(("idle", "user", "system")))
    fill(
        blocks,
        [
            Sample(series % (cpu, name), at, counter(mode, cpu, at))
            for at in scrapes() for cpu in range(2) for mode, name in modes
        ],
        "counter",
    )  # fmt: skip
    with serving(blocks) as url:
        yield url


def ask(url: str, out: Path, days: float = 2.0):
    """Fetch from the first day on, as on a later one."""
    return ingest(connect(url), 2, out, QUERIES, lambda: MIDNIGHT + days * DAY)


def test_values_and_gaps_are_the_sources(url: str, table: pd.DataFrame, tmp_path: Path) -> None:
    """Bit for bit, the way the reader would have read the table itself."""
    table.to_parquet(tmp_path / "source.parquet")
    fetched = ask(url, tmp_path / "out")
    assert fetched.rows == len(table) < 4 * 576 and fetched.retries == 0
    source, back = (read_fleet(tmp_path / name, SPEC) for name in ("source.parquet", "out"))
    same(back.fleet, source.fleet)
    assert back.summary.ticks_missing == source.summary.ticks_missing > 0


def test_a_bare_selector_would_hide_gaps(url: str, table: pd.DataFrame) -> None:
    """The reason for ranges: Prometheus repeats the sample before a gap for five minutes."""
    step = {"first": MIDNIGHT * 1000 + 299_999, "last": (MIDNIGHT + 2 * DAY) * 1000 - 1}
    bare = connect(url).series("fleet_cpu_percent", **step, step_seconds=60)
    ranges = connect(url).series(
        "avg_over_time(fleet_cpu_percent[59999ms])", **step, step_seconds=60
    )
    assert sum(len(series.values) for series in ranges) == len(table) - 4  # the first ticks
    assert sum(len(series.values) for series in bare) > 4.9 * len(table)


def test_a_run_killed_while_asking_goes_on(url: str, tmp_path: Path) -> None:
    ask(url, tmp_path / "whole")
    code = f"""
import os, signal
from data.prometheus import connect, ingest
from tests.test_prometheus_real import QUERIES, MIDNIGHT, DAY
die = lambda share: os.kill(os.getpid(), signal.SIGKILL) if share > 0.8 else None
ingest(connect({url!r}), 2, {str(tmp_path / "out")!r}, QUERIES, lambda: MIDNIGHT + 2 * DAY, die)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent)
    assert ended.returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "out").glob("day=*")] == ["day=2024-01-01"]
    fetched = ask(url, tmp_path / "out")
    assert (fetched.days_kept, fetched.days) == (1, 2)  # the day before has no value, nor a file
    same(*(read_fleet(tmp_path / name, SPEC).fleet for name in ("out", "whole")))


def test_a_later_run_fetches_what_is_new(url: str, table: pd.DataFrame, tmp_path: Path) -> None:
    ask(url, tmp_path / "whole")
    parts = [ask(url, tmp_path / "out", days).rows for days in (0.3, 1.0, 1.7, 2.0, 2.0)]
    assert sum(parts) == len(table) and parts[-1] == 0 and min(parts[:-1]) > 0
    same(*(read_fleet(tmp_path / name, SPEC).fleet for name in ("out", "whole")))


def test_a_step_is_exact_to_the_millisecond(url: str) -> None:
    queries = Queries({"sum": "sum_over_time(edge[$range])"}, "server")
    block = Fetcher(connect(url), queries).block(FIRST, FIRST + 5)
    np.testing.assert_array_equal(block.values[0, :, 0], [3, 4, 8, 16, np.nan])


def test_node_exporters_columns_are_what_its_samples_say(url: str) -> None:
    """The processor is busy for a share of the seconds it counted, were it restarted or not."""
    times = np.array(scrapes())
    ticks = (times + 30_000) // STEP - FIRST
    expected = np.full((24, 4), np.nan)
    for tick in np.unique(ticks[ticks < 24]):
        here = times[ticks == tick]
        gauges = pd.DataFrame([node_gauges(at) for at in here]).mean()
        available, total, load, used, size = (
            gauges[[name in column for column in gauges.index]].iloc[0]
            for name in ("MemAvailable", "MemTotal", "load1", 'avail_bytes{instance="n:9100",'
                         'mountpoint="/data"', 'size_bytes{instance="n:9100",mountpoint="/data"')
        )  # fmt: skip
        expected[tick, 1:] = 100 * (1 - available / total), 100 * (1 - used / size), load
        counts = np.array(
            [[[counter(mode, cpu, at) for mode in range(3)] for cpu in range(2)] for at in here]
        )
        grown = np.diff(counts, axis=0)
        grown = np.where(grown < 0, counts[1:], grown).sum(axis=(0, 1))  # a reset: from zero
        expected[tick, 0] = 100 * (1 - grown[0] / grown.sum()) if len(here) > 1 else np.nan
    seen = (~np.isnan(expected)).sum(axis=0).tolist()
    assert seen == [13, 14, 14, 14]  # of a counter seen once in a step nothing is known

    block = Fetcher(connect(url), Queries()).block(FIRST, FIRST + 24)
    assert block.servers == ("n:9100",)
    np.testing.assert_allclose(block.values[0], expected, rtol=1e-9)


def test_a_day_of_seconds_comes_in_portions(url: str) -> None:
    """17,280 ticks a day are over the server's 11,000 points."""
    queries = Queries(
        {"cpu_percent": "avg_over_time(fleet_cpu_percent[$range])"}, "server", None, 5
    )
    client = connect(url)
    block = Fetcher(client, queries).block(MIDNIGHT // 5, MIDNIGHT // 5 + 17_280)
    assert (~np.isnan(block.values)).sum() > 4 * 270 and client.retries == 0


def test_the_newest_ticks_for_a_live_service(url: str, table: pd.DataFrame) -> None:
    now = MIDNIGHT + 2 * DAY + 20
    found = Fetcher(connect(url), QUERIES).latest(now - 3320, now)
    hour = table[table.timestamp > pd.Timestamp(now - 3620, unit="s", tz="UTC")]
    hour = hour.sort_values(["timestamp", "server_name"])
    assert len(found) == len(hour) > 40
    for row, (_, truth) in zip(found, hour.iterrows(), strict=True):
        assert (row.server, row.profile) == (truth.server_name, truth.profile)
        assert row.tick * 300 == truth.timestamp.timestamp()
        assert row.values == {name: truth[name] for name in METRICS}


def test_the_servers_own_words_reach_the_person(url: str) -> None:
    client = Client(Endpoint(url))
    with pytest.raises(ValueError, match=r"refuses the query avg\(.*unclosed left parenthesis"):
        Fetcher(client, Queries({"a": "avg(a[$range]"})).block(FIRST, FIRST + 1)
    assert client.requests == 2  # the range's ends, the query
