"""Calibration after training, where it does not belong, and what an evaluation says of it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from report.batches import UNCALIBRATED
from report.claims import derive_claims
from report.evaluate import evaluate
from report.groups import ValidationPart
from report.page import evaluation_page
from report.text import evaluation_text
from tests.builders import SCHEMA, SMALL_TRAINING, random_batch, small_fleet, small_table
from tests.builders import tiny_forecaster as tiny
from tft.batch import WindowBatch
from tft.bundle import load_forecaster
from tft.forecaster import Forecaster, TrainingFacts
from tft.schema import UNKNOWN_CODE
from train import TFTTrainer, TrainConfig
from train.calibrate import calibrate
from train.prepare import Fold

CONFIG = TrainConfig(**SMALL_TRAINING, calibrate=True)
GAPS = (SCHEMA.prediction_horizon, len(SCHEMA.targets), len(SCHEMA.quantiles) - 1)


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "fleet.parquet"
    small_table().to_parquet(path)
    return path


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TFTTrainer(CONFIG, say=quiet).train(table, tmp_path_factory.mktemp("runs") / "run")


def factors(run: Path) -> torch.Tensor:
    calibration = load_forecaster(run / "model").calibration
    assert calibration is not None
    return calibration


def same_weights(one: Path, two: Path) -> bool:
    states = [load_forecaster(path / "model").network.state_dict() for path in (one, two)]
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def over_confident() -> Forecaster:
    """Return a forecaster of each history's mean, with intervals a third of what they should be."""
    forecaster = tiny()
    head, M = forecaster.network.head, len(SCHEMA.targets)
    with torch.no_grad():
        head.shares.weight.zero_()
        head.shares.bias.view(M, -1)[:, 1:] = -1e4  # nothing of naive forecasts
        head.linear.weight.zero_()
        gaps = head.linear.bias.view(M, -1)
        gaps[:, [0, 2]] = torch.tensor(0.4).expm1().log()  # before softplus
    return forecaster


def test_training_ends_with_it_and_says_what_it_did(run: Path) -> None:
    info = json.loads((run / "training_info.json").read_text())["calibration"]
    assert info["windows"] == 3 * 67  # all: 72 validation ticks, horizons of 6
    # 12 disjoint horizons of each server, and one cut by where the validation part begins.
    assert 3 * 12 <= info["independent"] <= 3 * 13
    assert set(info["coverage_before"]) == set(info["coverage_after"]) == {
        "cpu_percent", "load_average",
    }  # fmt: skip
    assert (factors(run) != 1).all()


def test_it_changes_no_weight_and_is_left_out_by_default(
    run: Path, table: Path, tmp_path: Path
) -> None:
    plain = replace(CONFIG, calibrate=TrainConfig().calibrate)
    assert not plain.calibrate
    other = TFTTrainer(plain, say=quiet).train(table, tmp_path / "run")
    assert same_weights(run, other)
    assert load_forecaster(other / "model").calibration is None
    infos = [json.loads((path / "training_info.json").read_text()) for path in (run, other)]
    assert infos[1]["calibration"] is None
    assert infos[0]["quantile_loss"] == infos[1]["quantile_loss"]


def test_a_resumed_run_is_calibrated_the_same(run: Path, table: Path, tmp_path: Path) -> None:
    """Also where it was calibrated before: the fit starts from uncalibrated quantiles."""
    trainer = TFTTrainer(replace(CONFIG, epochs=1), say=quiet)
    trainer.train(table, tmp_path / "run")
    TFTTrainer(CONFIG, say=quiet).train(table, tmp_path / "run", resume=True)
    assert same_weights(run, tmp_path / "run")
    assert torch.equal(factors(run), factors(tmp_path / "run"))


def test_a_fold_is_not_calibrated_on_what_it_is_judged_on(table: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=1)
    run = TFTTrainer(config, say=quiet).train(table, tmp_path / "run", fold=Fold(1, 2))
    assert load_forecaster(run / "model").calibration is None
    assert json.loads((run / "training_info.json").read_text())["calibration"] is None


def test_another_fleets_calibration_is_not_taken_over(
    run: Path, table: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, calibrate=False, init=str(run), epochs=1)
    started = TFTTrainer(config, say=quiet).train(table, tmp_path / "run")
    assert load_forecaster(started / "model").calibration is None


def test_an_over_confident_forecaster_is_mended() -> None:
    forecaster, batches = over_confident(), [random_batch(64, seed=n) for n in range(4)]
    result = calibrate(forecaster, batches, 256, 10**9)
    assert max(result.coverage_before.values()) < 0.5
    for share in result.coverage_after.values():
        assert share == pytest.approx(0.8, abs=0.01)
    others = random_batch(256, seed=9)
    forecast = forecaster.forecast(others)
    inside = (forecast[..., 0] <= others.future) & (others.future <= forecast[..., -1])
    assert inside.float().mean() == pytest.approx(0.8, abs=0.05)
    assert "the 80 % interval holds cpu_percent" in result.line()


def test_what_is_clamped_to_a_bound_and_right_there_is_not_widened() -> None:
    """cpu at 100 % forecast above it, and an idle load forecast below 0, are both forecast well."""
    forecaster, batch = over_confident(), random_batch(64)
    with torch.no_grad():
        medians = forecaster.network.head.linear.bias.view(len(SCHEMA.targets), -1)[:, 1]
        medians.copy_(torch.tensor([9.0, -9.0]))  # spreads from the mean
    future = torch.tensor([100.0, 0.0]).expand_as(batch.future)
    result = calibrate(forecaster, [batch._replace(future=future)], 64, 10**9)
    assert set(result.coverage_before.values()) == {1.0}
    assert forecaster.calibration is not None
    assert (forecaster.calibration[:, 0, 0] <= 1).all(), "from cpu's median down"
    assert (forecaster.calibration[:, 1, 1] <= 1).all(), "from load's median up"


def test_what_a_small_fleet_tells_moves_little() -> None:
    """However many its windows are: they overlap."""
    batches = [random_batch(64, seed=n) for n in range(4)]
    forecaster = over_confident()
    result = calibrate(forecaster, batches, 256, 9)
    assert forecaster.calibration is not None
    assert (forecaster.calibration - 1).abs().max() < 0.5
    for name, before in result.coverage_before.items():
        assert result.coverage_after[name] < before + 0.1


def test_it_is_fitted_on_servers_known_and_never_seen() -> None:
    forecaster, codes = tiny(), []
    proper = forecaster.normalised

    def noting(batch: WindowBatch) -> tuple[torch.Tensor, torch.Tensor]:
        codes.append(batch.static_codes)
        return proper(batch)

    forecaster.normalised = noting  # type: ignore[method-assign]
    batch = random_batch()
    calibrate(forecaster, [batch], 3, 3)
    assert torch.equal(codes[0], batch.static_codes) and codes[0].any()
    assert (codes[1] == UNKNOWN_CODE).all() and len(codes) == 2


def test_an_evaluation_tells_before_from_after() -> None:
    """Before is what the same weights score without; validation windows are said to flatter."""
    reports = []
    for calibration in (None, torch.full(GAPS, 0.2)):
        forecaster = tiny()
        forecaster.facts = TrainingFacts(("server0", "server1"), 1040)
        forecaster.calibration = calibration
        part = ValidationPart(1040, 1060, None)
        fleet = small_fleet((120, 120, 120))
        reports.append(evaluate(forecaster, fleet, "run", "table", None, validation=part))
    plain, calibrated = reports
    before = next(each for each in calibrated.forecasters if each.name == UNCALIBRATED)
    assert before.rows == plain.model.rows and before.buckets == plain.model.buckets
    assert calibrated.model.rows[0].coverage < before.rows[0].coverage
    assert [each.rows for each in calibrated.naives[1:]] == [each.rows for each in plain.naives]
    shown = []
    for report in reports:
        claims = derive_claims(report, None)
        page = evaluation_page(report, claims, None, Figure(figsize=(1, 1)))
        text = evaluation_text(report, claims)
        shown.append(
            (
                "Before and after calibration" in page,
                "calibration:" in text,
                any("calibrated its quantiles" in line for line in claims.supported),
            )
        )
    assert shown[0] == (False, False, False)
    held_out = [group for group in calibrated.groups if not group.validation]
    assert held_out and shown[1] == (True, True, False)
    only_validation = replace(calibrated, groups=calibrated.groups[1:2])
    claims = derive_claims(only_validation, None)
    assert any("calibrated its quantiles and so flatter it" in line for line in claims.supported)
