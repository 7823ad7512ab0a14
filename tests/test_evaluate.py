"""The evaluation sees only what training did not, and its scores are the naive ones' equals."""

import importlib.util
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data.splits import split_fold
from data.windows import WindowStore, index_windows
from report.batches import naive_store
from report.evaluate import evaluate, example_figure, held_out_windows, measure_latency
from report.groups import ValidationPart
from tests.builders import SCHEMA, small_fleet, tiny_forecaster
from tft.batch import WindowBatch
from tft.forecaster import Forecaster, TrainingFacts
from tft.schema import FeatureSchema

H = SCHEMA.prediction_horizon
SCORER = Path(__file__).parent.parent.parent / "shared" / "score" / "score.py"


def trained(
    servers: tuple[str, ...] = ("server0", "server1"),
    end: int = 1040,
    schema: FeatureSchema = SCHEMA,
) -> Forecaster:
    forecaster = tiny_forecaster(schema=schema)
    forecaster.facts = TrainingFacts(servers, end)
    return forecaster


def test_no_target_tick_of_a_server_trained_on_is_judged_again() -> None:
    fleet = small_fleet()
    held_out = held_out_windows(fleet, trained())
    server, origin = held_out.windows.lookup(np.arange(len(held_out.windows)))
    assert origin[server < 2].min() == 1040
    assert (held_out.known, held_out.new) == (2, 1)
    new = index_windows(fleet, SCHEMA, servers=np.array([2]))
    assert (server == 2).sum() == len(new)  # all of a server never trained on


def test_up_to_a_folds_end_its_validation_part_is_judged() -> None:
    """Of servers never trained on, too: earlier windows are of other folds."""
    fleet = small_fleet((120, 120, 120))
    split = split_fold(fleet, SCHEMA, 1, 2, held_out=("server1",))
    forecaster = trained(("server0", "server2"), split.cutoff)
    judged = held_out_windows(fleet, forecaster, split.end).windows
    pairs = [
        sorted(zip(*index.lookup(np.arange(len(index))), strict=True))
        for index in (judged, split.validation)
    ]
    assert pairs[0] == pairs[1]
    report = evaluate(forecaster, fleet, "fold-1", "table", windows=None, end=split.end)
    assert report.windows == len(split.validation)
    assert (report.servers_known, report.servers_new) == (2, 1)


def test_nothing_left_to_judge_on_is_said() -> None:
    everyone = ("server0", "server1", "server2")
    with pytest.raises(ValueError, match=r"no window to evaluate: servers trained on \(3\) need"):
        evaluate(trained(everyone, end=2000), small_fleet(), "run", "table")


def test_every_forecaster_is_judged_on_the_same_windows() -> None:
    report = evaluate(trained(), small_fleet(), "run", "table.csv", windows=40)
    assert [f.name for f in report.forecasters] == [
        "tft", "last_value", "seasonal_naive", "window_quantiles",
    ]  # fmt: skip
    assert report.windows == 40
    observed = {tuple(row.observed for row in f.rows) for f in report.forecasters}
    assert len(observed) == 1
    assert report.first_origin.endswith("Z")


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_model_that_passes_on_a_tick_has_no_score(wrong: float) -> None:
    """Masking by its own forecasts would judge it on what it found easy."""
    forecaster, fleet = trained(), small_fleet()
    whole = evaluate(forecaster, fleet, "run", "table", windows=40)
    proper = forecaster.forecast

    def gappy(batch: WindowBatch) -> torch.Tensor:
        forecast = proper(batch)
        forecast[0, :2, 0] = wrong
        return forecast

    forecaster.forecast = gappy  # type: ignore[method-assign]
    report = evaluate(forecaster, fleet, "run", "table", windows=40)
    cpu, load, mean = report.forecasters[0].rows
    assert math.isnan(cpu.wql) and math.isnan(cpu.coverage) and math.isnan(mean.wql)
    assert load == whole.forecasters[0].rows[1]
    assert [f.rows for f in report.forecasters[1:]] == [f.rows for f in whole.forecasters[1:]]
    assert (whole.not_finite, report.not_finite) == (0, 2)
    assert math.isnan(report.calibration[0].at_or_below[0])
    assert report.calibration[1] == whole.calibration[1]


def test_a_short_context_does_not_lower_the_bar() -> None:
    """Yesterday is a day ago for the naive forecasts, whatever the network sees."""
    fleet = small_fleet((90, 90, 90))
    reports = [
        evaluate(
            trained(schema=replace(SCHEMA, context_length=length)), fleet, "run", "table", None
        )
        for length in (6, 24)
    ]
    short, day = ([f.rows for f in report.forecasters[1:]] for report in reports)
    assert short == day


def test_the_naive_forecasts_history_is_shared_and_a_day_at_least() -> None:
    fleet = small_fleet()
    store = naive_store(fleet, replace(SCHEMA, context_length=6))
    assert store.schema.context_length == 24
    assert store.values.data_ptr() == fleet.values.ctypes.data
    assert naive_store(fleet, SCHEMA).schema.context_length == SCHEMA.context_length == 30


def test_scores_are_those_of_the_forecasts() -> None:
    """Weighted quantile loss, plainly: twice the pinball loss over what came."""
    fleet, forecaster = small_fleet(), trained()
    report = evaluate(forecaster, fleet, "run", "table", windows=None)
    index = held_out_windows(fleet, forecaster).windows
    store = WindowStore(fleet, SCHEMA, known_servers=forecaster.facts.servers)
    batch = store.gather(*index.lookup(np.arange(len(index))))
    forecast, actual = forecaster.forecast(batch).numpy(), batch.future.numpy()
    for column, row in enumerate(report.forecasters[0].rows[:2]):
        error = actual[..., column, None] - forecast[..., column, :]
        levels = np.array(SCHEMA.quantiles)
        pinball = np.maximum(levels * error, (levels - 1) * error).sum((0, 1)).mean()
        assert row.wql == pytest.approx(2 * pinball / np.abs(actual[..., column]).sum(), rel=1e-4)


def test_agrees_with_the_scorer_on_the_same_windows() -> None:
    if not SCORER.exists():
        pytest.skip("the scorer is not beside the repository")
    sys.path.insert(0, str(SCORER.parent))
    try:
        spec = importlib.util.spec_from_file_location("score", SCORER)
        scorer = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(scorer)
    finally:
        sys.path.remove(str(SCORER.parent))
    # Full contexts only: the scorer knows no short histories.
    schema = replace(
        SCHEMA, step_seconds=300, context_length=288, min_context_length=288, prediction_horizon=96
    )
    fleet = replace(small_fleet((500, 600, 450)), step_seconds=300)
    forecaster = tiny_forecaster(schema=schema)
    report = evaluate(forecaster, fleet, "run", "table", windows=None)
    index = held_out_windows(fleet, forecaster).windows
    store = WindowStore(fleet, schema, known_servers=forecaster.facts.servers)
    batch = store.gather(*index.lookup(np.arange(len(index))))
    history, future = batch.past[:, :, :2].numpy(), batch.future.numpy()
    theirs = {
        "tft": forecaster.forecast(batch).numpy(),
        "last_value": scorer.last_value(history),
        "seasonal_naive": scorer.seasonal_naive(history),
        "window_quantiles": scorer.last_window_quantiles(history),
    }
    for ours in report.forecasters:
        scores = scorer.score(theirs[ours.name], history, future, metrics=SCHEMA.target_names)
        for row in ours.rows[:2]:
            expected = scores.loc[row.metric]
            assert row.wql == pytest.approx(expected["wQL"], abs=1e-4)
            assert row.mae == pytest.approx(expected["MAE"], abs=1e-3)
            assert row.rmae_seasonal == pytest.approx(expected["rMAE_seasonal"], abs=1e-4)
            assert row.coverage == pytest.approx(expected["cover80"], abs=1e-4)
            assert row.crossing == expected["cross"] == 0


def test_windows_are_told_apart_by_server_and_by_what_chose_the_epoch() -> None:
    """Each window is of one kind, and the kinds' windows are all of them."""
    fleet, forecaster = small_fleet((120, 120, 120)), trained()
    part = ValidationPart(1040, 1060, frozenset(("server0", "server1")))
    report = evaluate(forecaster, fleet, "run", "table", windows=None, validation=part)
    found = {(group.new, group.validation): group for group in report.groups}
    assert set(found) == {(False, False), (False, True), (True, False)}
    assert sum(group.windows for group in report.groups) == report.windows
    assert sum(group.scores["tft"][-1].observed for group in report.groups) == (
        report.model.rows[-1].observed
    )
    index = held_out_windows(fleet, forecaster).windows
    server, origin = index.lookup(np.arange(len(index)))
    assert found[(False, True)].windows == ((server < 2) & (origin < 1060)).sum()
    assert [group.servers for group in report.groups] == [2, 2, 1]


def test_scores_over_all_windows_are_those_of_the_kinds_together() -> None:
    """A share over all ticks is the kinds' shares, each with its ticks."""
    report = evaluate(trained(), small_fleet(), "run", "table", windows=None)
    assert [group.name for group in report.groups] == ["known servers", "new servers"]
    for each in report.forecasters:
        for position, row in enumerate(each.rows[:-1]):
            parts = [group.scores[each.name][position] for group in report.groups]
            for score in ("mae", "coverage", "width"):
                total = sum(getattr(part, score) * part.observed for part in parts)
                assert getattr(row, score) == pytest.approx(total / row.observed)
            assert len({part.mae for part in parts}) == 2


def test_every_servers_windows_are_counted() -> None:
    report = evaluate(trained(), small_fleet(), "run", "table", windows=None)
    assert sum(row.windows for row in report.servers) == report.windows
    assert [row.new for row in report.servers] == [False, False, True]


def test_latency_is_of_this_evaluation() -> None:
    fleet, forecaster = small_fleet(), trained()
    report = evaluate(forecaster, fleet, "run", "table", windows=40)
    latency = measure_latency(forecaster, fleet, report, repeats=3)
    assert latency.device == "cpu" and latency.batch_size == 40
    assert latency.windows_per_second == pytest.approx(40 / report.model.seconds)
    assert 0 < latency.one_window_ms < 10_000


def test_examples_are_of_windows_not_trained_on() -> None:
    """A panel per metric and server, three servers of three."""
    figure = example_figure(trained(), small_fleet(), "title")
    drawn = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert drawn == ["server0", "server1", "server2"]
    assert len(figure.axes) == 2 * 3
