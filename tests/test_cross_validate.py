"""Folds roll forward, none is judged on what it trained on, and none is trained twice."""

import json
import math
import shutil
import signal
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

from cli import cli
from report.folds import CrossValidation, FoldResult, FoldScores, folds_markdown, folds_text
from report.scores import Scores, mean_row
from tests.builders import SMALL_TRAINING, small_table
from tft.bundle import load_forecaster
from train import TFTTrainer, TrainConfig
from train.cross_validate import cross_validate
from train.prepare import Fold
from train.signals import Stopped, StopRequest
from train.step import StepResult, train_step

CONFIG = TrainConfig(**SMALL_TRAINING)
PART = 90  # ticks: the small table has 360, in four parts
SETTINGS = [
    part
    for key, value in SMALL_TRAINING.items()
    for part in ("--set", f"{key}={','.join(value) if isinstance(value, tuple) else value}")
]


def quiet(_: str) -> None:
    pass


TRAINER = TFTTrainer(CONFIG, say=quiet)


def write(path: Path, table: pd.DataFrame) -> Path:
    table.to_parquet(path)
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "fleet.parquet", small_table())


@pytest.fixture(scope="module")
def whole(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-validation of three folds, never interrupted."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    path, _ = cross_validate(TRAINER, table, 3, folder, windows=50)
    assert path == folder / "cross_validation.json"
    return folder


def content(folder: Path) -> dict:
    return json.loads((folder / "cross_validation.json").read_text())


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_forecaster(run / "model").state_dict()


def test_folds_roll_forward(whole: Path) -> None:
    """Each is judged from the tick on at which its training ended; parts follow one another."""
    folds = content(whole)["folds"]
    begin = pd.Timestamp("2026-01-05", tz="UTC")
    for number, fold in enumerate(folds, 1):
        forecaster = load_forecaster(whole / f"fold-{number}" / "model")
        cutoff = pd.Timestamp(forecaster.facts.end_tick * 300, unit="s", tz="UTC")
        assert fold["fold"] == number and fold["windows"] == 50
        assert pd.Timestamp(fold["validated_from"]) == cutoff
        assert cutoff == begin + number * PART * pd.Timedelta("5min")
        assert pd.Timestamp(fold["validated_until"]) == cutoff + PART * pd.Timedelta("5min")


def test_what_a_fold_is_judged_on_and_all_after_it_never_reach_its_training(
    table: Path, tmp_path: Path
) -> None:
    """One epoch: which of several is best may depend on the part that validates."""
    frame = pd.read_parquet(table)
    later = frame.timestamp >= frame.timestamp.min() + PART * pd.Timedelta("5min")
    frame.loc[later, ["cpu_percent", "load_average", "swap_percent"]] = 1.5
    other = write(tmp_path / "other.parquet", frame)
    trainer = replace(TRAINER, config=replace(CONFIG, epochs=1))
    for name, data in (("one", table), ("two", other)):
        cross_validate(trainer, data, 3, tmp_path / name, windows=10)
    firsts, seconds = (
        [weights(tmp_path / name / fold) for name in ("one", "two")]
        for fold in ("fold-1", "fold-2")
    )
    assert all(torch.equal(firsts[0][name], firsts[1][name]) for name in firsts[0])
    assert not all(torch.equal(seconds[0][name], seconds[1][name]) for name in seconds[0])
    scores = [content(tmp_path / name)["folds"][0]["scores"] for name in ("one", "two")]
    assert scores[0]["tft"][0]["wql"] != scores[1]["tft"][0]["wql"]  # judged on what came


def test_a_fold_is_a_training_of_its_own(whole: Path, table: Path, tmp_path: Path) -> None:
    """No fold inherits weights or random numbers from the one before."""
    alone = TRAINER.train(table, tmp_path / "alone", fold=Fold(2, 3))
    one, two = weights(alone), weights(whole / "fold-2")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_mean_and_spread_are_those_of_the_folds(whole: Path) -> None:
    result = content(whole)
    folds = result["folds"]
    losses = [fold["validation_loss"] for fold in folds]
    for number, loss in enumerate(losses, 1):
        info = json.loads((whole / f"fold-{number}" / "training_info.json").read_text())
        assert info["quantile_loss"] == loss
    assert result["mean"]["validation_loss"] == pytest.approx(statistics.mean(losses))
    assert result["spread"]["validation_loss"] == pytest.approx(statistics.stdev(losses))
    names = ["tft", "last_value", "seasonal_naive", "window_quantiles"]
    assert [*result["mean"]["scores"]] == [*folds[0]["scores"]] == names
    for name in names:
        for row in range(3):
            for score in ("wql", "mae", "coverage"):
                values = [fold["scores"][name][row][score] for fold in folds]
                mean, spread = (
                    result[kind]["scores"][name][row][score] for kind in ("mean", "spread")
                )
                assert mean == pytest.approx(statistics.mean(values))
                assert spread == pytest.approx(statistics.stdev(values), abs=1e-9)
    metrics = [row["metric"] for row in result["mean"]["scores"]["tft"]]
    assert metrics == ["cpu_percent", "load_average", "mean"]


def test_stopped_in_a_fold_it_goes_on_there(
    whole: Path, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fold that ended is not touched again, and the result is as if nothing had happened."""
    run, stop, lines = tmp_path / "run", StopRequest(), []
    said: list[str] = []

    def stop_in_the_second(*arguments: Any) -> StepResult:
        if "fold 2 of 3: training" in said:
            stop.signal = signal.SIGTERM
        return train_step(*arguments)

    monkeypatch.setattr("train.loop.train_step", stop_in_the_second)
    with pytest.raises(Stopped) as stopped:
        cross_validate(replace(TRAINER, say=said.append), table, 3, run, stop=stop)
    assert stopped.value.exit_code == 143
    assert not (run / "cross_validation.json").exists()
    before = tree(run / "fold-1")
    cross_validate(replace(TRAINER, say=lines.append), table, 3, run, resume=True, windows=50)
    assert tree(run / "fold-1") == before
    assert "fold 1 of 3: trained before" in lines
    assert any(line.startswith("resuming at epoch 1, step 1, from step-") for line in lines)
    assert content(run) == content(whole)
    assert (run / "cross_validation.md").read_text() == (whole / "cross_validation.md").read_text()


def test_stopped_between_folds_it_begins_no_other(table: Path, tmp_path: Path) -> None:
    stop = StopRequest()

    def stop_while_judging(line: str) -> None:
        if line == "fold 1 of 3: judging":
            stop.signal = signal.SIGINT

    trainer = replace(TRAINER, say=stop_while_judging)
    with pytest.raises(Stopped):
        cross_validate(trainer, table, 3, tmp_path / "run", windows=10, stop=stop)
    assert not (tmp_path / "run" / "fold-2").exists()


@pytest.mark.parametrize(
    ("folds", "changes", "message"),
    [
        (2, {}, "begun with folds = 3, not 2"),
        (3, {"epochs": 3}, "begun with epochs = 2, not 3"),
        (3, {"dropout": 0.5}, "begun with dropout = 0.15, not 0.5"),
    ],
)
def test_what_was_begun_is_not_changed(
    whole: Path, table: Path, folds: int, changes: dict, message: str
) -> None:
    before = tree(whole)
    trainer = replace(TRAINER, config=replace(CONFIG, **changes))
    with pytest.raises(ValueError, match=message):
        cross_validate(trainer, table, folds, whole, resume=True)
    assert tree(whole) == before


def test_a_table_that_has_grown_is_another(whole: Path, tmp_path: Path) -> None:
    """Its folds are cut elsewhere: a fold that ended would be judged on what it trained on."""
    grown = write(tmp_path / "fleet.parquet", small_table(hours=40))
    with pytest.raises(ValueError, match="begun with table_crc32"):
        cross_validate(TRAINER, grown, 3, whole, resume=True)


def test_nothing_is_overwritten(whole: Path, table: Path, tmp_path: Path) -> None:
    before = tree(whole)
    with pytest.raises(ValueError, match="not empty; go on with --resume"):
        cross_validate(TRAINER, table, 3, whole)
    with pytest.raises(ValueError, match="holds no cross-validation to resume"):
        cross_validate(TRAINER, table, 3, whole / "fold-1", resume=True)
    assert tree(whole) == before
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "folds.json").write_text("{")
    with pytest.raises(ValueError, match=r"folds\.json: damaged"):
        cross_validate(TRAINER, table, 3, tmp_path / "run", resume=True)


def test_too_many_folds_for_the_table_are_refused_before_any_is_trained(
    table: Path, tmp_path: Path
) -> None:
    """360 ticks: 30 parts of the 6 + 6 that a part needs, so 29 folds."""
    with pytest.raises(ValueError, match=r"30 folds cut .* parts of 11, .* --folds 29 or fewer"):
        cross_validate(TRAINER, table, 30, tmp_path / "run")
    with pytest.raises(ValueError, match="did you mean server1"):
        servers = replace(CONFIG, validation_servers=("servre1",))
        cross_validate(replace(TRAINER, config=servers), table, 3, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_later_fold_without_data_is_found_before_any_is_trained(tmp_path: Path) -> None:
    frame = small_table()
    begin = frame.timestamp.min()
    ticks = (frame.timestamp - begin) // pd.Timedelta("5min")
    gap = write(tmp_path / "gap.parquet", frame[(ticks < 2 * PART) | (ticks >= 3 * PART)])
    with pytest.raises(ValueError, match="fold 2 of 3: no validation window"):
        cross_validate(TRAINER, gap, 3, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_torchrun_is_refused(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="start it without torchrun"):
        cross_validate(TRAINER, table, 3, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- the command --------------------------------------------------------------------------------


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["cross-validate", *(str(argument) for argument in arguments)])


def test_the_command(whole: Path, table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--folds", "3", "--windows", "50", "--run-dir", run]
    result = invoke("--data", table, *options, *SETTINGS)
    assert result.exit_code == 0, result.output
    *tables, last = result.stdout.splitlines()
    assert last == str(run / "cross_validation.json")
    assert content(run) == content(whole)
    assert tables[0] == "Cross-validation of 3 folds on fleet.parquet"
    progress = [line for line in result.stderr.splitlines() if line.startswith("fold 2 of 3: ")]
    assert progress[:2] == ["fold 2 of 3: training", "fold 2 of 3: judging"]
    before = tree(run / "fold-3")
    again = invoke(*options, "--resume")  # with what it was begun with
    assert again.exit_code == 0, again.output
    assert again.stdout == result.stdout
    assert tree(run / "fold-3") == before


def test_the_command_is_stopped_as_train_is(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise Stopped(signal.SIGINT)

    monkeypatch.setattr("train.cross_validate.cross_validate", stopped)
    result = invoke("--data", table, "--folds", "2", "--run-dir", tmp_path / "run", *SETTINGS)
    assert result.exit_code == 130 and result.stdout == ""
    assert "go on with --resume" in result.stderr


def test_help() -> None:
    result = invoke("--help")
    assert result.exit_code == 0 and "--folds" in result.output


# --- the tables ---------------------------------------------------------------------------------


def made_up(metrics: list[str], folds: int = 5) -> CrossValidation:
    """Return folds of made-up scores; the second has none of the second metric."""

    def scores(metric: str, wql: float) -> Scores:
        rest = dict.fromkeys(("mae", "rmse", "rmae_seasonal", "width", "crossing"), 1.0)
        return Scores(metric=metric, wql=wql, coverage=0.75, observed=10, **rest)

    results = []
    for fold in range(1, folds + 1):
        rows = [
            scores(name, math.nan if (fold, place) == (2, 1) else fold * 10.0**place)
            for place, name in enumerate(metrics)
        ]
        named = {name: (*rows, mean_row(rows)) for name in ("tft", "window_quantiles")}
        day = f"2026-01-{fold:02}T00:00:00Z"
        results.append(FoldResult(fold, day, day, 2048, 0, FoldScores(0.5 * fold, named)))
    return CrossValidation("fleet.parquet", tuple(results))


def test_ten_metrics_of_long_names_fit_a_terminal() -> None:
    names = [f"node_network_receive_bytes_{number:02}_rate_per_second" for number in range(10)]
    text = folds_text(made_up(names))
    assert max(len(line) for line in text.splitlines()) <= 100
    assert all(text.count(name) == 1 for name in names)


def test_tables_say_mean_and_spread_and_nothing_where_nothing_was_measured() -> None:
    lines = [line.split() for line in folds_text(made_up(["cpu", "disk"])).splitlines()]
    assert ["mean", "1.5000"] in lines and ["spread", "0.7906"] in lines  # losses 0.5 to 2.5
    assert ["cpu", "1", "1.0000", "1.0000", "75.0", "%"] in lines
    assert ["mean", "3.0000", "3.0000", "75.0", "%"] in lines
    assert ["spread", "1.5811", "1.5811", "0.0", "%"] in lines
    assert ["2", "-", "-", "75.0", "%"] in lines
    assert ["mean", "-", "-", "75.0", "%"] in lines  # not of the folds that happen to have it


def test_markdown_and_json_hold_any_name_and_any_score() -> None:
    result = made_up(["cpu|percent", "disk"])
    assert "| cpu\\|percent | 1 " in " ".join(folds_markdown(result).split())
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert plain["mean"]["scores"]["tft"][1]["wql"] is None
    assert plain["folds"][4]["validated_from"] == "2026-01-05T00:00:00Z"
    lost = replace(result, folds=(replace(result.folds[0], not_finite=1234), *result.folds[1:]))
    assert "not finite: 1,234 forecasts of tft" in folds_text(lost)
    assert "not finite" not in folds_text(result)
