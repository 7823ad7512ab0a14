"""Origins in, a table of quantiles out, whole or not at all."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from data.forecasts import (
    Origins,
    check_output,
    cold_starts,
    latest_origins,
    parse_levels,
    read_origins,
    write_forecasts,
)
from data.windows import WindowStore
from tests.builders import SCHEMA, small_fleet, tiny_forecaster

H, STEP = SCHEMA.prediction_horizon, SCHEMA.step_seconds
COLUMNS = ["server_name", "origin", "timestamp", "metric", "q0.1", "q0.5", "q0.9"]


def at(tick: int) -> pd.Timestamp:
    return pd.Timestamp(tick * STEP, unit="s", tz="UTC")


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
    expected = forecaster.forecast(WindowStore(fleet, SCHEMA).gather(*origins)).numpy()
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
    pd.testing.assert_frame_equal(one, many, rtol=1e-4)


def test_origins_are_read_in_their_order_on_the_tick_grid(tmp_path: Path) -> None:
    fleet = small_fleet()
    second, first = int(fleet.first_tick[1]) + 40, int(fleet.first_tick[0]) + 20
    late = at(first) + pd.Timedelta(seconds=100)  # within its tick
    path = origins_file(tmp_path, f"server1,{at(second)}", f" server0 ,{late.isoformat()}")
    origins = read_origins(path, fleet, SCHEMA)
    assert origins.server.tolist() == [1, 0]
    assert origins.origin.tolist() == [second, first]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nobody,{good}", "line 3, server_name 'nobody': expected a server of the table"),
        ("server0,soon", "line 3, origin 'soon': expected a time such as"),
        ("server0,{before}", "line 3, origin .*: expected a time with a row of the server"),
        ("server0,{long_after}", "line 3, origin .*: expected a time with a row of the server"),
    ],
)
def test_bad_origins_name_their_line(tmp_path: Path, line: str, message: str) -> None:
    fleet = small_fleet()
    first = int(fleet.first_tick[0])
    times = {"good": at(first + 20), "before": at(first), "long_after": at(first + 600)}
    path = origins_file(tmp_path, f"server0,{times['good']}", line.format(**times))
    with pytest.raises(ValueError, match=f"origins.csv, {message}"):
        read_origins(path, fleet, SCHEMA)


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


def test_short_histories_are_called_cold_starts() -> None:
    fleet = small_fleet((60, 3, 50))
    assert cold_starts(fleet, latest_origins(fleet, SCHEMA), SCHEMA) == ["server1"]


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


def test_nothing_to_forecast_is_said(tmp_path: Path) -> None:
    nothing = Origins(np.zeros(0, np.int64), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="nothing to forecast"):
        write(tmp_path / "out.csv", nothing)
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_could_not_be_written_are_refused_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ending in .parquet or .csv"):
        check_output(tmp_path / "out.xlsx")
    with pytest.raises(ValueError, match="does not exist; create it first"):
        check_output(tmp_path / "nowhere" / "out.csv")


@pytest.mark.parametrize("text", ["", "a", "0.1,1", "0.5,,"])
def test_levels_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected numbers between 0 and 1"):
        parse_levels(text)
    assert parse_levels("0.1,0.5") == (0.1, 0.5)
