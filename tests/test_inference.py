"""The inference benchmark measures what was asked for, and judges by what it measured."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from benchmarks import inference, kernels
from benchmarks.inference import judge, measure_size, random_forecaster, random_windows
from tests.builders import SCHEMA
from tft.batch import WindowBatch
from tft.forecaster import Forecaster

STARTS = {"tft_model_after_torch_seconds": 0.05, "help_seconds": 0.31}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = replace(SCHEMA, static_reals=())
    values = {"SCHEMA": schema, "BATCH_SIZE": 4, "MANY": 9, "BOTH_PATHS": 6, "PROCESSES": 1}
    for name, value in (values | {"FILE_SERVERS": 3}).items():
        monkeypatch.setattr(inference, name, value)


@pytest.mark.usefixtures("tiny")
def test_a_short_run_measures_every_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "import_seconds", lambda *names: [0.5, 0.625][: len(names)])
    monkeypatch.setattr(inference, "run_python", lambda *_: "")
    record = tmp_path / "results" / "inference.json"
    arguments = ["--servers", "9,1,6", "--repeats", "3", "--json", str(record)]
    result = CliRunner().invoke(inference.inference, arguments)
    assert result.exit_code == 0, result.output

    content = json.loads(record.read_text())
    assert content["on"]["commit"] and content["device"] == "cpu"
    rows = [(row["servers"], row["layers"], row["repeats"]) for row in content["forecasts"]]
    assert rows == [(1, "as run", 3), (6, "readable", 3), (6, "as run", 3), (9, "as run", 2)]
    for row in content["forecasts"]:
        assert 0 < row["median_seconds"] <= row["worst_seconds"]
        assert row["windows_per_second"] == pytest.approx(row["servers"] / row["median_seconds"])
    files = content["file_to_file"]
    assert (files["servers"], files["repeats"]) == (3, 3) and files["median_seconds"] > 0
    starts = content["fresh_processes"]
    assert starts["tft_model_after_torch_seconds"] == starts["difference_seconds"] == 0.125
    assert len(content["goals"]) == 5

    lines = result.stdout.splitlines()
    table = lines[: lines.index("")]
    assert len({len(line) for line in table}) == 1 and len(table) == 5, "columns are aligned"
    assert sum(line.startswith(("holds: ", "does not hold: ")) for line in lines) == 5


def test_starts_are_measured_in_fresh_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "PROCESSES", 1)
    starts = inference.measure_starts()
    assert starts["import_torch_seconds"] > 0 and starts["help_seconds"] > 0
    assert starts["import_torch_and_tft_model_seconds"] > starts["tft_model_after_torch_seconds"]


def test_the_network_is_the_one_whose_blocks_are_timed() -> None:
    assert inference.random_forecaster().network.config == kernels.CONFIG


@pytest.mark.usefixtures("tiny")
def test_every_window_is_forecast_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches of 4 at most; the untimed one before them is the first."""
    sizes = []
    forecast = Forecaster.forecast

    def counting(self: Forecaster, batch: WindowBatch) -> torch.Tensor:
        sizes.append(len(batch.past))
        result = forecast(self, batch)
        assert result.isfinite().all()
        return result

    monkeypatch.setattr(Forecaster, "forecast", counting)
    measure_size(random_forecaster(), servers=10, repeats=1)
    assert sizes == [4, 4, 4, 2]


@pytest.mark.usefixtures("tiny")
def test_random_windows_are_what_a_forecaster_takes() -> None:
    windows, schema = random_windows(3), inference.SCHEMA
    assert windows.past.shape == (3, schema.context_length, len(schema.metrics))
    assert windows.static_codes[:, 0].max() < schema.server_buckets
    assert windows.static_codes[:, 1].max() <= len(schema.profiles)
    assert windows.history_length.tolist() == [schema.context_length] * 3


def measured(**forecast: Any) -> dict[str, Any]:
    row = {"servers": 160, "layers": "as run"} | forecast
    return {
        "device": "cpu", "forecasts": [row], "file_to_file": {"median_seconds": 1.5},
        "fresh_processes": STARTS,
    }  # fmt: skip


def test_goals_are_judged_by_what_was_measured() -> None:
    goals = judge(measured(median_seconds=0.19, windows_per_second=842.0))
    assert [goal["holds"] for goal in goals] == [False, True, False, True, False]
    assert [goal["measured"] for goal in goals] == [842.0, 0.19, 1.5, 0.05, 0.31]
    fast = judge(measured(median_seconds=0.05, windows_per_second=3200.0))
    assert fast[0]["holds"] and fast[0]["at_least"] == 3000


def test_what_was_not_measured_is_not_judged() -> None:
    """A goal for the CPU is none for a GPU, nor one at 160 servers for 20."""
    only_starts = measured(servers=20) | {"file_to_file": {"left_out": "no pyarrow"}}
    assert [goal["measured"] for goal in judge(only_starts)] == [0.05, 0.31]
    on_gpu = measured(median_seconds=0.19, windows_per_second=842.0) | {"device": "cuda"}
    assert len(judge(on_gpu)) == 4


def test_files_are_left_out_where_they_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    files = inference.measure_files(random_forecaster(), repeats=1)
    assert list(files) == ["left_out"] and "pyarrow.parquet" in files["left_out"]


@pytest.mark.parametrize("servers", ["", "twenty", "20,0", "-5"])
def test_sizes_that_are_none_are_refused(servers: str) -> None:
    result = CliRunner().invoke(inference.inference, ["--servers", servers])
    assert result.exit_code == 2
    assert "expected numbers from 1, such as 1,20,160" in result.stderr
