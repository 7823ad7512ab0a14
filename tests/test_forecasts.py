"""Origins in, a table of quantiles out, whole or not at all."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch

from data.fleet import Fleet
from data.forecasts import (
    Origins,
    check_levels,
    check_output,
    choose_origins,
    cold_starts,
    ended_early,
    latest_origins,
    parse_levels,
    read_origins,
    silent_servers,
    write_forecasts,
)
from data.windows import WindowStore
from tests.builders import SCHEMA, small_fleet, tiny_forecaster

H, STEP = SCHEMA.prediction_horizon, SCHEMA.step_seconds
COLUMNS = ["server_name", "origin", "timestamp", "metric", "q0.1", "q0.5", "q0.9"]


def at(tick: int) -> pd.Timestamp:
    return pd.Timestamp(tick * STEP, unit="s", tz="UTC")


def recent_fleet() -> Fleet:
    """Return a fleet of our days: an epoch number before 1973 is none."""
    fleet = small_fleet()
    return replace(fleet, first_tick=fleet.first_tick + 5_000_000)


def write(path: Path, origins: Origins, levels: tuple[float, ...] = (0.1, 0.5, 0.9)) -> int:
    return write_forecasts(tiny_forecaster(), small_fleet(), origins, path, levels)


def origins_file(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "origins.csv"
    path.write_text("\n".join(["server_name,origin", *lines]) + "\n")
    return path


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_rows_are_the_forecasts_of_the_ticks_after_the_last(tmp_path: Path, ending: str) -> None:
    fleet, forecaster = small_fleet(), tiny_forecaster()
    origins = latest_origins(fleet, SCHEMA)
    path = tmp_path / f"out{ending}"
    rows = write(path, origins)
    table = pd.read_parquet(path) if ending == ".parquet" else pd.read_csv(path)
    assert list(table) == COLUMNS
    assert rows == len(table) == 3 * H * 2
    for column in ("origin", "timestamp"):
        table[column] = pd.to_datetime(table[column], utc=True)
    store = WindowStore(fleet, SCHEMA, known_servers=forecaster.facts.servers)
    expected = forecaster.forecast(store.gather(*origins)).numpy()
    for number, server in enumerate(fleet.servers):
        after = int(fleet.first_tick[number] + fleet.lengths[number])
        mine = table[table.server_name == server]
        assert (mine.origin == at(after)).all()
        for column, metric in enumerate(SCHEMA.target_names):
            part = mine[mine.metric == metric]
            assert list(part.timestamp) == [at(after + step) for step in range(H)]
            np.testing.assert_allclose(part[COLUMNS[4:]], expected[number, :, column], rtol=1e-5)
    assert list(tmp_path.iterdir()) == [path]


def test_levels_are_chosen_by_name(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    write(path, latest_origins(small_fleet(), SCHEMA), (0.9,))
    assert list(pd.read_csv(path)) == [*COLUMNS[:4], "q0.9"]
    with pytest.raises(ValueError, match="quantile 0.3 was not trained; the model has 0.1, 0.5"):
        write(path, latest_origins(small_fleet(), SCHEMA), (0.3,))


def test_many_batches_are_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet = small_fleet()
    ticks = int(fleet.first_tick[0]) + np.arange(5, 55)
    origins = Origins(np.zeros(50, np.int64), ticks)
    write(tmp_path / "one.parquet", origins)
    monkeypatch.setattr("data.forecasts.BATCH_SIZE", 7)
    write(tmp_path / "many.parquet", origins)
    one, many = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("one", "many"))
    pd.testing.assert_frame_equal(one, many, rtol=1e-4, atol=1e-4)


def test_origins_are_read_in_their_order_on_the_tick_grid(tmp_path: Path) -> None:
    fleet = recent_fleet()
    second, first = int(fleet.first_tick[1]) + 40, int(fleet.first_tick[0]) + 20
    late = at(first) + pd.Timedelta(seconds=100)  # within its tick
    path = origins_file(tmp_path, f"server1,{at(second)}", f" server0 ,{late.isoformat()}")
    origins = read_origins(path, fleet, SCHEMA)
    assert origins.server.tolist() == [1, 0]
    assert origins.origin.tolist() == [second, first]


def test_times_of_origins_are_read_as_in_a_table(tmp_path: Path) -> None:
    """Zoned, local and epoch times of one moment are one tick; an early clock is let pass."""
    fleet = recent_fleet()
    tick = int(fleet.first_tick[0]) + 20
    moment = at(tick)
    local = moment.tz_convert("Asia/Tokyo").tz_localize(None)
    early = moment - pd.Timedelta(seconds=min(30, STEP // 10))
    for text in (moment.isoformat(), local.isoformat(), str(int(moment.timestamp())), early):
        path = origins_file(tmp_path, f"server0,{text}")
        assert read_origins(path, fleet, SCHEMA, "Asia/Tokyo").origin.tolist() == [tick]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nobody,{good}", "line 3, server_name 'nobody': expected a server of the table"),
        ("server0,soon", "line 3, origin 'soon': expected a time such as 2026-01-05T12:00:00Z$"),
        ("server0,now", "line 3, origin 'now': expected a time such as"),
        ("server0,{before}", "line 3, origin .*: expected a time with a target seen in the"),
        ("server0,{long_after}", "line 3, origin .*: expected a time with a target seen in the"),
        ("\n,\nserver0,soon", "line 5, origin 'soon'"),
        ("server0,{good},1", "line 3: expected 2 fields, as in the header, found 3"),
        ("server0,soon\nserver0,late", "line 3, .*2 lines are wrong so"),
    ],
)
def test_bad_origins_name_their_line(tmp_path: Path, line: str, message: str) -> None:
    fleet = recent_fleet()
    first = int(fleet.first_tick[0])
    times = {"good": at(first + 20), "before": at(first), "long_after": at(first + 600)}
    path = origins_file(tmp_path, f"server0,{times['good']}", line.format(**times))
    with pytest.raises(ValueError, match=f"origins.csv, {message}"):
        read_origins(path, fleet, SCHEMA)


def test_an_origin_given_twice_is_forecast_once(tmp_path: Path) -> None:
    fleet = recent_fleet()
    tick = int(fleet.first_tick[0]) + 20
    again = at(tick) + pd.Timedelta(seconds=7)  # the same tick
    path = origins_file(
        tmp_path, f"server0,{at(tick)}", f"server0,{again.isoformat()}", f"server1,{at(tick)}"
    )
    origins = read_origins(path, fleet, SCHEMA)
    assert origins.server.tolist() == [0, 1] and origins.origin.tolist() == [tick, tick]


def test_an_origins_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "origins.csv"
    path.write_text("server,when\na,b\n")
    with pytest.raises(ValueError, match="no column 'server_name'; .* found server, when"):
        read_origins(path, small_fleet(), SCHEMA)
    path.write_text("server_name,origin\n")
    with pytest.raises(ValueError, match="no line after the header"):
        read_origins(path, small_fleet(), SCHEMA)
    with pytest.raises(ValueError, match="cannot be read as CSV"):
        read_origins(tmp_path / "none.csv", small_fleet(), SCHEMA)


def test_a_server_that_saw_nothing_lately_is_not_forecast() -> None:
    fleet = small_fleet()
    fleet.series(1)[-SCHEMA.context_length :, :2] = np.nan
    assert latest_origins(fleet, SCHEMA).server.tolist() == [0, 2]
    assert silent_servers(fleet, SCHEMA) == ["server1"]


def test_servers_that_ended_over_a_horizon_ago_are_named() -> None:
    lengths = (60, 57 - H, 53 - H)  # each starts 3 ticks after the one before
    assert ended_early(small_fleet(lengths), SCHEMA) == ["server2"]


def test_short_histories_are_called_cold_starts() -> None:
    fleet = small_fleet((60, 3, 50))
    assert cold_starts(fleet, latest_origins(fleet, SCHEMA), SCHEMA) == ["server1"]
    fleet.series(2)[1:-1, :2] = np.nan  # a long one, of which next to nothing was seen
    fleet.series(0)[::2] = np.nan
    assert cold_starts(fleet, latest_origins(fleet, SCHEMA), SCHEMA) == ["server1", "server2"]


def test_a_failure_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.csv"
    path.write_text("old")
    monkeypatch.setattr("data.forecasts.BATCH_SIZE", 1)
    fleet = small_fleet()
    bad = Origins(np.array([0, 0]), fleet.first_tick[0] + np.array([9, 0]))  # no history
    with pytest.raises(ValueError, match="no history"):
        write(path, bad)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_to_forecast_is_said() -> None:
    fleet = small_fleet()
    fleet.values[:] = np.nan
    said: list[str] = []
    with pytest.raises(ValueError, match="nothing to forecast: no server has a target seen"):
        choose_origins(None, fleet, SCHEMA, "UTC", said.append)
    assert sum("no target seen in its last 30 ticks; not forecast" in line for line in said) == 3


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_no_window_is_a_table_of_the_same_columns(tmp_path: Path, ending: str) -> None:
    """A part of a fleet may hold no server, and the parts are read as one table."""
    nothing = Origins(np.zeros(0, np.int64), np.zeros(0, np.int64))
    some, none = tmp_path / f"some{ending}", tmp_path / f"none{ending}"
    assert write(none, nothing) == 0
    write(some, latest_origins(small_fleet(), SCHEMA))
    if ending == ".csv":
        assert none.read_text().splitlines() == [",".join(COLUMNS)]
    else:
        assert pq.read_schema(none) == pq.read_schema(some)


def test_what_is_not_finite_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forecaster, fleet = tiny_forecaster(), small_fleet()
    forecast = forecaster.forecast

    def overflowing(*windows: Any) -> torch.Tensor:
        values = forecast(*windows)
        values[1, 0, 1] = float("inf")
        return values

    monkeypatch.setattr(forecaster, "forecast", overflowing)
    message = f"server server1, metric {SCHEMA.target_names[1]} is not finite.*: rescale the column"
    with pytest.raises(ValueError, match=message):
        path = tmp_path / "out.csv"
        write_forecasts(forecaster, fleet, latest_origins(fleet, SCHEMA), path, (0.5,))
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_could_not_be_written_are_refused_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ending in .parquet or .csv"):
        check_output(tmp_path / "out.xlsx")
    with pytest.raises(ValueError, match="does not exist; create it first"):
        check_output(tmp_path / "nowhere" / "out.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="is a folder; name a file"):
        check_output(tmp_path / "folder.csv")


def test_outputs_into_a_folder_of_somebody_else_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.forecasts.os.access", lambda path, mode: False)
    with pytest.raises(ValueError, match="cannot be written to; name another"):
        check_output(tmp_path / "out.csv")


def test_outputs_that_would_change_an_input_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    table = tmp_path / "in" / "table.csv"
    with pytest.raises(ValueError, match="is read and would be replaced"):
        check_output(tmp_path / "in" / ".." / "in" / "table.csv", tmp_path / "other.csv", table)
    with pytest.raises(ValueError, match="lies in .* name a file in another folder"):
        check_output(tmp_path / "in" / "out.csv", tmp_path / "in")
    check_output(tmp_path / "in" / "out.csv", table)


@pytest.mark.parametrize("text", ["", "a", "0.1,1", "0.5,,"])
def test_levels_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected numbers between 0 and 1"):
        parse_levels(text)
    assert parse_levels("0.5,0.1") == (0.1, 0.5)


def test_levels_are_given_once_and_known() -> None:
    with pytest.raises(ValueError, match="0.5 is given twice"):
        parse_levels("0.5,0.1,0.50")
    assert check_levels((0.1, 0.9), SCHEMA) == [
        SCHEMA.quantiles.index(0.1),
        SCHEMA.quantiles.index(0.9),
    ]
    with pytest.raises(ValueError, match="quantile 0.3 was not trained"):
        check_levels((0.1, 0.3), SCHEMA)
