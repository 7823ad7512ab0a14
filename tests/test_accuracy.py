"""Every forecaster is trained on the same rows and judged on the same windows."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from benchmarks import accuracy as benchmark
from benchmarks.accuracy_text import FLAT, TFT, as_markdown, as_text, below, goals
from benchmarks.forecasters import Task, train_and_forecast
from benchmarks.holdout import (
    KNOWN,
    UNSEEN,
    Windows,
    cutoff_tick,
    gather,
    held_out_servers,
    judged_windows,
    training_fleet,
    write_training_table,
)
from benchmarks.peer_data import load_fleet, load_windows, save_fleet, save_windows, windows_of
from data.fleet import Fleet
from data.reading import TableSpec, read_fleet
from report.naive import window_quantiles
from report.scores import ScoreSums
from tests.builders import small_table
from tests.tables import same

TARGETS = ("cpu_percent", "load_average")
SPEC = TableSpec(targets=TARGETS)
HORIZON = 6
NETWORK = {
    "context_length": 24, "min_context_length": 6, "prediction_horizon": HORIZON,
    "hidden_size": 8, "embedding_size": 4, "attention_heads": 2, "windows_per_epoch": 64,
    "validation_windows": 16, "batch_size": 16, "epochs": 1,
}  # fmt: skip


def span(first: str, last: str, step: int = 300) -> Fleet:
    """Return a fleet of one server that has rows from one time to another."""
    begin, end = (int(pd.Timestamp(day, tz="UTC").timestamp()) // step for day in (first, last))
    return Fleet(
        servers=("a",), profiles=(None,), metrics=("cpu_percent",), static_names=(),
        values=np.zeros((end - begin, 1), np.float32), offsets=np.array([0, end - begin]),
        first_tick=np.array([begin]), static=np.zeros((1, 0), np.float32), step_seconds=step,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("first", "last", "cutoff"),
    [
        ("2013-06-30T22:00", "2013-08-30T22:00", "2013-08-01"),  # Bitbrains: a month begins near
        ("2026-01-05T00:00", "2026-01-11T00:00", "2026-01-08"),
        ("2026-01-05T07:00", "2026-01-11T17:00", "2026-01-08"),  # rounded down to a midnight
        ("2026-01-01T00:00", "2026-03-03T00:00", "2026-02-01"),
    ],
)
def test_the_cutoff_is_a_midnight_in_the_middle_or_a_month(
    first: str, last: str, cutoff: str
) -> None:
    moment = datetime.fromtimestamp(cutoff_tick(span(first, last)) * 300, UTC)
    assert moment == datetime.fromisoformat(cutoff).replace(tzinfo=UTC)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return seven servers' table of five days; server1 has a gap after the cutoff."""
    frame = small_table(7, hours=120)
    missing = (frame.server_name == "server1") & (frame.timestamp == "2026-01-08T06:00Z")
    frame = frame[~missing].reset_index(drop=True)
    path = tmp_path_factory.mktemp("table") / "fleet.parquet"
    frame.to_parquet(path)
    return path


def test_what_is_held_out_never_reaches_the_training_table(table: Path, tmp_path: Path) -> None:
    fleet = read_fleet(table, SPEC).fleet
    held_out, cutoff = held_out_servers(fleet), cutoff_tick(fleet)
    assert held_out == ("server2", "server5")
    rows = write_training_table(table, SPEC, held_out, cutoff, tmp_path / "training")
    written = pd.read_parquet(tmp_path / "training")
    assert len(written) == rows == 5 * 2 * 288
    assert set(written.server_name) == {f"server{n}" for n in (0, 1, 3, 4, 6)}
    assert written.timestamp.max() == pd.Timestamp("2026-01-06T23:55Z")
    whole = pd.read_parquet(table)
    kept = whole[(whole.timestamp < "2026-01-07") & ~whole.server_name.isin(held_out)]
    pd.testing.assert_frame_equal(
        written.reset_index(drop=True), kept.reset_index(drop=True), check_dtype=False
    )


def test_peers_learn_from_the_same_rows(table: Path, tmp_path: Path) -> None:
    """Through the file they are handed, too."""
    fleet = read_fleet(table, SPEC).fleet
    held_out, cutoff = held_out_servers(fleet), cutoff_tick(fleet)
    write_training_table(table, SPEC, held_out, cutoff, tmp_path / "training")
    expected = read_fleet(tmp_path / "training", SPEC).fleet
    save_fleet(training_fleet(fleet, held_out, cutoff), tmp_path)
    same(load_fleet(tmp_path), expected)


def test_text_tables_keep_their_rows_too(tmp_path: Path) -> None:
    frame = small_table(3, hours=72)
    (tmp_path / "csv").mkdir()
    for name, part in frame.groupby("server_name"):
        part.to_csv(tmp_path / "csv" / f"{name}.csv", index=False)
    fleet = read_fleet(tmp_path / "csv", SPEC).fleet
    held_out, cutoff = held_out_servers(fleet), cutoff_tick(fleet)
    write_training_table(tmp_path / "csv", SPEC, held_out, cutoff, tmp_path / "training")
    found = read_fleet(tmp_path / "training", SPEC).fleet
    same(found, training_fleet(fleet, held_out, cutoff))


def test_windows_are_whole_and_after_the_cutoff(table: Path) -> None:
    fleet = read_fleet(table, SPEC).fleet
    cutoff = cutoff_tick(fleet)
    groups = judged_windows(fleet, 2, HORIZON, cutoff, most=100_000)
    per_server = 3 * 288 - HORIZON + 1
    touching_the_gap = 288 + HORIZON
    assert len(groups[KNOWN].origin) == 5 * per_server - touching_the_gap
    assert len(groups[UNSEEN].origin) == 2 * per_server
    for group, numbers in ((KNOWN, {0, 1, 3, 4, 6}), (UNSEEN, {2, 5})):
        history, came = gather(fleet, groups[group], HORIZON)
        assert set(groups[group].server.tolist()) == numbers
        assert groups[group].origin.min() == cutoff
        assert not np.isnan(history[:, :, :2]).any() and not np.isnan(came[:, :, :2]).any()
    first = gather(fleet, Windows(np.array([2]), np.array([cutoff])), HORIZON)
    row = cutoff - int(fleet.first_tick[2])
    np.testing.assert_array_equal(np.concatenate(first, axis=1)[0], fleet.series(2)[
        row - 288 : row + HORIZON
    ])  # fmt: skip
    few = judged_windows(fleet, 2, HORIZON, cutoff, most=10)
    assert [len(windows.origin) for windows in few.values()] == [10, 10]
    assert set(few[UNSEEN].server.tolist()) == {2, 5}, "spread over the servers"


def test_windows_survive_their_file(table: Path, tmp_path: Path) -> None:
    fleet = read_fleet(table, SPEC).fleet
    some = Windows(np.array([2, 3]), np.array([cutoff_tick(fleet)] * 2))
    history, _ = gather(fleet, some, HORIZON)
    save_windows(windows_of(fleet, *some, history, HORIZON, 2), tmp_path)
    found = load_windows(tmp_path)
    assert found.server.tolist() == ["server2", "server3"]
    assert found.profile.tolist() == ["web_api", "database"]
    assert (found.horizon, found.num_targets) == (HORIZON, 2)
    np.testing.assert_array_equal(found.history, history)


def run_here(module: str, task: dict[str, Any], python: str, threads: int) -> dict[str, Any]:
    """Train in this process, or as a peer hold the last day's quantiles."""
    if module == "forecasters":
        return train_and_forecast(Task(**task))
    windows = load_windows(Path(task["folder"]))
    history = windows.history[:, :, : windows.num_targets]
    forecast = window_quantiles(history, windows.horizon, (0.1, 0.5, 0.9))
    np.savez(task["out"], forecast=forecast - (1e6 if module == "peer_tft" else 0))
    return {"train_seconds": 60.0}


@pytest.fixture(scope="module")
def ran(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """Return the record, what was printed, and where forecasts were written."""
    folder = tmp_path_factory.mktemp("ran")
    kept = folder / "kept"
    kept.mkdir()

    def keep(module: str, task: dict[str, Any], python: str, threads: int) -> dict[str, Any]:
        facts = run_here(module, task, python, threads)
        out = Path(task["out"])
        (kept / out.name).write_bytes(out.read_bytes())
        (kept / "windows.npz").write_bytes((out.parent / "windows.npz").read_bytes())
        return facts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "measure", keep)
        patch.setattr(benchmark, "check_peers", lambda python, config: None)
        result = CliRunner().invoke(
            benchmark.accuracy,
            ["--data", str(table), "--target", ",".join(TARGETS), "--seeds", "2", "--minutes", "1",
             "--windows", "20", "--peers", "--jobs", "2",
             "--json", str(folder / "results" / "accuracy.json"), "--name", "the traces",
             *(f"--set={key}={value}" for key, value in NETWORK.items())],
        )  # fmt: skip
    assert result.exit_code == 0, result.output
    content = json.loads((folder / "results" / "accuracy.json").read_text())
    return content, result.stdout, kept


def test_every_forecaster_is_judged_on_the_same_windows(
    ran: tuple[dict[str, Any], str, Path],
) -> None:
    content, text, _ = ran
    assert content["data"] == "the traces"
    found = {(result["forecaster"], result["seed"]) for result in content["results"]}
    learnt = {(name, seed) for name in benchmark.MODULES for seed in (1, 2)}
    assert found == learnt | {(name, None) for name in benchmark.NAIVE_FORECASTS}
    assert content["windows"] == {KNOWN: 20, UNSEEN: 20}
    assert content["held_out"] == ["server2", "server5"]
    assert content["cutoff"] == "2026-01-07T00:00:00Z" and content["jobs"] == 2
    for result in content["results"]:
        for rows in result["scores"].values():
            assert [row["observed"] for row in rows] == [20 * HORIZON] * 2 + [40 * HORIZON]
    by_name = {result["forecaster"]: result["scores"] for result in content["results"]}
    assert by_name["lightgbm"] == by_name[FLAT], "a peer is scored as any other"
    assert "/" not in content["data"], "records hold no paths"
    assert "known machines, later: 20 windows of 5 servers" in text


def test_a_peers_forecast_is_kept_within_what_a_metric_can_be(
    ran: tuple[dict[str, Any], str, Path],
) -> None:
    """The one a million below is scored as one of zero, the lower bound."""
    content, _, _ = ran
    result = next(r for r in content["results"] if r["forecaster"] == "pytorch_forecasting")
    for row in result["scores"][KNOWN]:
        assert row["wql"] == pytest.approx(2 * (0.1 + 0.5 + 0.9) / 3)


def test_the_projects_rows_are_those_of_its_forecasts(
    table: Path, ran: tuple[dict[str, Any], str, Path]
) -> None:
    content, _, kept = ran
    fleet = read_fleet(table, SPEC).fleet
    windows = load_windows(kept)
    server = np.array([fleet.servers.index(name) for name in windows.server])
    _, came = gather(fleet, Windows(server, windows.origin), HORIZON)
    for seed in (1, 2):
        with np.load(kept / f"tft-{seed}.npz") as file:
            forecast = file["forecast"]
        assert forecast.shape == (40, HORIZON, 2, 3)
        (result,) = (r for r in content["results"] if (r["forecaster"], r["seed"]) == (TFT, seed))
        for group, part in ((KNOWN, slice(20)), (UNSEEN, slice(20, 40))):
            sums = ScoreSums(TARGETS, (0.1, 0.5, 0.9), HORIZON)
            sums.add(forecast[part], came[part, :, :2])
            assert [row.to_dict() for row in sums.rows()] == result["scores"][group]


def test_margins_and_goals_are_means_over_seeds_of_the_worst_metric() -> None:
    def result(name: str, seed: int | None, cpu: float, load: float) -> dict[str, Any]:
        rows = [
            {"metric": metric, "wql": wql, "coverage": 0.8, "crossing": 0.0}
            for metric, wql in (("cpu", cpu), ("load", load), ("mean", (cpu + load) / 2))
        ]
        return {"forecaster": name, "seed": seed, "scores": {KNOWN: rows, UNSEEN: rows}}

    counts = {KNOWN: 5, UNSEEN: 5}
    content = {
        "targets": ["cpu", "load"], "windows": counts, "servers": counts,
        "results": [
            result(FLAT, None, 0.5, 1.0), result(TFT, 1, 0.2, 0.7), result(TFT, 2, 0.4, 0.9)
        ],
    }  # fmt: skip
    assert below(content, KNOWN, TFT, FLAT) == pytest.approx(
        {"cpu": 40.0, "load": 20.0, "mean": 100 * (1 - 0.55 / 0.75)}
    )
    flat_known, covered, crossed, flat_unseen, *_ = goals(content)
    assert (flat_known.metric, flat_known.met) == ("load", False)
    assert flat_known.measured == pytest.approx(20.0)
    assert flat_unseen.measured == pytest.approx(20.0)
    assert covered.met and crossed.met
    assert "0.300 ± 0.141" in as_text(content) and "| 0.300 ± 0.141, 80 % |" in as_markdown(content)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "random_seed=3"], "random_seed is set by --seeds"),
        (["--set", "hiden_size=3"], "did you mean hidden_size"),
        (["--peers", "/no/such/python"], "expected a Python"),
        (["--peers", "--set", "prediction_horizon=12"], "--peers needs prediction_horizon = 96"),
    ],
)
def test_bad_options_are_refused_before_any_work(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(benchmark.accuracy, arguments)
    assert result.exit_code == 2 and message in result.output, result.output
