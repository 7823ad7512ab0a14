"""The speed benchmark trains the same windows in every phase and judges by what it measured."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from click.testing import CliRunner

from benchmarks import speed
from benchmarks.phases import (
    MEASURES,
    METRICS,
    PHASES,
    PerSampleLoader,
    Task,
    configured,
    measure_steps,
)
from benchmarks.phases import prepared_for as prepare_phase
from data.synthetic import write_fleet

TINY = {
    "context_length": 24, "min_context_length": 12, "prediction_horizon": 8, "hidden_size": 8,
    "attention_heads": 2, "epochs": 2, "windows_per_epoch": 32, "validation_windows": 8,
    "device": "cpu", "batch_size": 8, "num_workers": 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fleet")
    write_fleet(speed.fleet_of(3, 24), folder)
    return folder


def test_one_by_one_is_the_same_windows_in_the_same_order(table: Path) -> None:
    task = Task("steps", "baseline", str(table), settings=TINY)
    prepared, one_by_one = prepare_phase(task, configured(task))
    assert isinstance(one_by_one, PerSampleLoader)
    assert len(one_by_one) == 4 and one_by_one.windows_per_epoch == 32 and one_by_one.sampled
    assert one_by_one.names(1, 3) == prepared.train_loader.names(1, 3)
    pairs = zip(one_by_one.epoch(1, 1), prepared.train_loader.epoch(1, 1), strict=True)
    for found, expected in pairs:
        for a, b in zip(found, expected, strict=True):
            assert torch.equal(a.nan_to_num(), b.nan_to_num())


def test_every_phase_trains_the_same_windows_with_the_same_seed() -> None:
    configs = [configured(Task("training", name, "x")) for name in PHASES]
    for key in ("windows_per_epoch", "epochs", "random_seed", "hidden_size", "context_length"):
        assert len({getattr(config, key) for config in configs}) == 1
    assert [config.fast_path for config in configs] == [False, False, False, True]
    assert [config.multi_target for config in configs] == [False, False, False, True]
    assert configured(Task("training", "baseline", "x", metric="disk_percent")).target_metrics[
        0
    ] == ("disk_percent")


def run_here(module: str, task: dict[str, Any]) -> dict[str, Any]:
    if module == "peers":
        return {"windows_per_second": 1.0, "step_ms": 1.0, "parameters": 1}
    row = MEASURES[task["measure"]](Task(**task))
    return {**row, "peak_bytes": 1 + row.get("peak_bytes", 0)}  # so little is often none


def test_a_short_run_prints_documented_and_measured_and_its_verdicts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(speed, "measure", run_here)
    monkeypatch.setattr(speed, "STEP_HOURS", 30)
    monkeypatch.setattr(speed, "OWNED", set())
    monkeypatch.setattr(speed, "refuse_for_peer", lambda device, changed: None)
    record = tmp_path / "results" / "speed.json"
    pairs = [
        f"--set={key}={json.dumps(value)}"
        for key, value in TINY.items()
        if key not in ("device", "epochs")
    ]
    result = CliRunner().invoke(
        speed.speed,
        ["--servers", "3", "--epochs", "2", "--rounds", "1", "--seconds", "0.01", "--peer",
         "--batches", "4,8", "--json", str(record), *pairs],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    content = json.loads(record.read_text())
    assert content["on"]["commit"] and content["settings"]["device"] == "cpu"
    assert list(content["phases"]) == list(PHASES)
    for name, row in content["phases"].items():
        assert row["minutes"] > 0 and row["loss"] > 0
        assert row["scaled"] == (name != "phase 3")
    assert content["steps"]["pytorch-forecasting, 4 target(s)"]["per_metric"] == 4.0
    assert len(content["claims"]) == 3
    text = result.stdout
    assert "* scaled" in text and text.count("holds") + text.count("does not hold") >= 3
    assert "round 1 of 1: steps of phase 3, batch 8" in result.stderr


def test_whole_minutes_and_four_models(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fake(module: str, task: dict[str, Any]) -> dict[str, Any]:
        asked.append((task["phase"], task["metric"]))
        loss = dict.fromkeys(METRICS, 0.5)
        run = {"seconds": 30.0, "epochs": 2, "best_epoch": 1, "windows": 64}
        return {**run, "loss_by_metric": loss}

    monkeypatch.setattr(speed, "measure", fake)
    scaled = speed.train_phases(Path("x"), {}, full=False)
    assert len(asked) == 4 and scaled["baseline"]["minutes"] == 2.0 and scaled["baseline"]["scaled"]
    assert scaled["phase 3"]["kept_epoch"] == 1
    asked.clear()
    full = speed.train_phases(Path("x"), {}, full=True)
    assert len(asked) == 13 and full["baseline"]["minutes"] == 2.0
    assert not full["baseline"]["scaled"] and full["phase 3"]["minutes"] == 0.5


def test_claims_are_judged_by_the_last_phase_at_its_own_batch_size() -> None:
    trained = {
        "baseline": {"minutes": 12.0, "loss": 0.5},
        "phase 3": {"minutes": 2.0, "loss": 0.45, "kept_epoch": 4},
    }
    steps = {
        "baseline": {"peak_bytes": 100}, "phase 3, batch 32": {"peak_bytes": 1},
        "phase 3, batch 64": {"peak_bytes": 60},
    }  # fmt: skip
    faster, less, better = speed.judge(trained, steps)
    del steps["phase 3, batch 64"]
    assert speed.judge(trained, steps)[1]["measured"] == pytest.approx(99)
    assert (faster["measured"], faster["holds"]) == (6.0, True)
    assert (less["measured"], less["holds"]) == (pytest.approx(40), False)
    assert (better["measured"], better["holds"]) == (pytest.approx(10), False)


def test_a_loss_before_training_proves_nothing() -> None:
    trained = {
        "baseline": {"minutes": 12.0, "loss": 0.5, "kept_epoch": 0},
        "phase 3": {"minutes": 2.0, "loss": 0.3, "kept_epoch": 0},
    }
    steps = {"baseline": {"peak_bytes": 100}, "phase 3, batch 64": {"peak_bytes": 60}}
    better = speed.judge(trained, steps)[2]
    assert better["measured"] == pytest.approx(40) and not better["holds"]
    assert speed.verdict(better).endswith("but no epoch was better than before training")


def test_a_measurement_that_fails_says_so(tmp_path: Path) -> None:
    with pytest.raises(click.ClickException, match="'/nowhere'} failed, see above"):
        speed.measure("phases", {"measure": "steps", "phase": "phase 3", "data": "/nowhere"})


def test_an_epoch_too_short_for_a_step_is_no_measurement(table: Path) -> None:
    task = Task("steps", "phase 3", str(table), settings={**TINY, "batch_size": 64})
    with pytest.raises(ValueError, match="an epoch of 32 windows has no step of 64"):
        measure_steps(task)


@pytest.mark.skipif(find_spec("pytorch_forecasting") is not None, reason="the peers are installed")
def test_a_missing_peer_is_named_with_its_remedy() -> None:
    with pytest.raises(Exception, match="install the extra `peers`"):
        speed.measure("peers", {"data": "x", "targets": 1, "seconds": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "hidden_size"], "expected key=value"),
        (["--set", "epochs=3"], "epochs belongs to the phases"),
        (["--set", "hiden_size=3"], "did you mean hidden_size"),
        (["--batches", "a"], "expected numbers from 1, such as 32,64"),
        (["--batches", "0,32"], "expected numbers from 1, such as 32,64"),
        (["--peer", "--set", "hidden_size=64"], "--peer trains on the CPU"),
    ],
)
def test_bad_options_are_refused_before_any_work(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(speed.speed, arguments)
    assert result.exit_code == 2 and message in result.output, result.output


def test_fleets_of_any_size_have_the_built_in_ones_proportions() -> None:
    twenty, forty = speed.fleet_of(20, 24), speed.fleet_of(40, 24)
    assert twenty.num_web_api == 5 and forty.num_web_api == 10
    assert speed.fleet_of(1, 24).num_ml_compute == 1
