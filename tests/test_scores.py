"""Scores agree with plainly written formulas and with the shared scorer, batch by batch or not."""

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from report.naive import yesterdays_values
from report.scores import (
    SCORED_QUANTILES,
    Bucket,
    Scores,
    ScoreSums,
    comparable,
    horizon_buckets,
    pick_quantiles,
    pinball,
    skill,
)

SCORER = Path(__file__).resolve().parents[1] / ".." / "shared" / "score" / "score.py"
METRICS = ("cpu_percent", "memory_percent", "net_in_kbs")


def load_scorer():
    """Import the scorer by its path; it imports its neighbour, so its folder is on the path."""
    if not SCORER.exists():
        pytest.skip("the shared scorer is not beside this repository")
    spec = importlib.util.spec_from_file_location("shared_score", SCORER)
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(SCORER.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCORER.parent))
    return module


def make_windows(seed, windows=6, horizon=96, missing=0.0, quantiles=3):
    """Return history, forecast with a few crossings, and actual, in float32."""
    rng = np.random.default_rng(seed)
    history = rng.gamma(2.0, 20.0, (windows, 288, 3)).astype(np.float32)
    actual = rng.gamma(2.0, 20.0, (windows, horizon, 3)).astype(np.float32)
    forecast = np.sort(rng.gamma(2.0, 20.0, (windows, horizon, 3, quantiles)), axis=-1)
    forecast[0, :5] = forecast[0, :5, :, ::-1]
    actual[rng.random(actual.shape) < missing] = np.nan
    history[rng.random(history.shape) < missing] = np.nan
    return history, forecast.astype(np.float32), actual


def test_agrees_with_the_shared_scorer():
    scorer = load_scorer()
    history, forecast, actual = make_windows(1)
    expected = scorer.score(forecast, history, actual, list(METRICS))
    sums = ScoreSums(METRICS, SCORED_QUANTILES, 96)
    sums.add(forecast, actual, yesterdays_values(history, 96))
    for row in sums.rows():
        ours = [row.wql, row.mae, row.rmae_seasonal, row.coverage, row.crossing]
        names = ["wQL", "MAE", "rMAE_seasonal", "cover80", "cross"]
        # The scorer rounds to four decimals.
        np.testing.assert_allclose(ours, expected.loc[row.metric, names], atol=6e-5)
    assert expected.loc["mean", "cross"] > 0.0


def plain_scores(forecast, actual, yesterday):
    """Write the scores of one metric, [N, H] windows, down as their formulas in float64."""
    seen = ~np.isnan(actual)
    y, day = actual[seen].astype(np.float64), yesterday[seen]
    q10, q50, q90 = forecast[seen].astype(np.float64).T
    error, both = np.abs(y - q50), ~np.isnan(day)
    loss = 0.0
    for level, q in zip(SCORED_QUANTILES, (q10, q50, q90), strict=True):
        loss += np.where(y >= q, level * (y - q), (1.0 - level) * (q - y)).sum()
    return {
        "wql": 2.0 * loss / 3.0 / np.abs(y).sum(),
        "mae": error.mean(),
        "rmse": np.sqrt((error**2).mean()),
        "rmae_seasonal": error[both].sum() / np.abs(y - day)[both].sum(),
        "coverage": ((q10 <= y) & (y <= q90)).mean(),
        "width": (q90 - q10).mean(),
        "crossing": ((q50 < q10).mean() + (q90 < q50).mean()) / 2.0,
        "observed": len(y),
    }


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1000),
    cuts=st.lists(st.integers(0, 7), max_size=3),
    missing=st.sampled_from([0.0, 0.4]),
)
def test_scores_are_their_formulas_however_windows_are_batched(seed, cuts, missing):
    history, forecast, actual = make_windows(seed, windows=7, horizon=30, missing=missing)
    yesterday = yesterdays_values(history, 30)
    sums = ScoreSums(METRICS, SCORED_QUANTILES, 30)
    for rows in np.split(np.arange(7), sorted(cuts)):
        sums.add(forecast[rows], actual[rows], yesterday[rows])
    assert sums.windows == 7
    ranges = {None: slice(None), **{b: slice(b.start, b.stop) for b in sums.buckets}}
    assert len(ranges) == 4
    for bucket, part in ranges.items():
        rows = sums.rows(bucket)
        assert [row.metric for row in rows] == [*METRICS, "mean"]
        expected = [
            plain_scores(forecast[:, part, m], actual[:, part, m], yesterday[:, part, m])
            for m in range(3)
        ]
        for row, scores in zip(rows, expected, strict=False):
            assert {name: getattr(row, name) for name in scores} == pytest.approx(scores)
        for name in expected[0]:
            values = [scores[name] for scores in expected]
            mean = np.sum(values) if name == "observed" else np.mean(values)
            assert getattr(rows[3], name) == pytest.approx(mean)


def test_quantiles_that_cross_are_counted():
    history, _, actual = make_windows(3, missing=0.0)
    sums = ScoreSums(METRICS, SCORED_QUANTILES, 96)
    forecast = np.repeat(np.nan_to_num(actual)[..., None], 3, axis=-1)
    forecast[:, :24, :, 0] += 1  # the lowest above the others in a quarter of the steps
    sums.add(forecast, actual, yesterdays_values(history, 96))
    assert sums.rows()[0].crossing == pytest.approx(0.25 / 2)  # one pair of two crosses there


def test_a_perfect_forecast_scores_zero_and_covers_all():
    history, _, actual = make_windows(3, missing=0.2)
    sums = ScoreSums(METRICS, SCORED_QUANTILES, 96)
    perfect = np.repeat(np.nan_to_num(actual)[..., None], 3, axis=-1)
    sums.add(perfect, actual, yesterdays_values(history, 96))
    for row in sums.rows():
        assert (row.wql, row.mae, row.rmse, row.rmae_seasonal, row.width, row.crossing) == (0,) * 6
        assert row.coverage == 1.0


@pytest.mark.parametrize("level", [0.02, 0.1, 0.5, 0.9])
def test_the_true_quantile_has_the_least_pinball_loss(level):
    sample = np.sort(np.random.default_rng(4).gamma(2.0, 20.0, 2001))
    true = np.quantile(sample, level)
    shifts = np.array([-10.0, -3.0, -1.0, 0.0, 1.0, 3.0, 10.0])
    losses = [
        pinball(np.full((2001, 1, 1, 1), true + shift), sample[:, None, None], [level]).mean()
        for shift in shifts
    ]
    assert np.argmin(losses) == 3
    assert np.all(np.diff(losses)[:3] < 0) and np.all(np.diff(losses)[3:] > 0)


def test_unobserved_and_zero_metrics_have_no_score_and_stay_out_of_the_mean():
    """Warnings are errors here, so dividing by zero would fail."""
    _, forecast, actual = make_windows(5)
    actual[..., 0] = np.nan
    actual[..., 1] = 0.0
    sums = ScoreSums(METRICS, SCORED_QUANTILES, 96)
    assert math.isnan(sums.rows()[-1].wql)  # nothing added yet
    sums.add(forecast, actual)
    unseen, zero, usual, mean = sums.rows()
    assert unseen.observed == 0 and math.isnan(unseen.coverage) and math.isnan(unseen.crossing)
    assert math.isnan(unseen.wql) and math.isnan(unseen.mae) and math.isnan(unseen.rmse)
    assert math.isnan(zero.wql) and zero.mae > 0.0
    assert mean.wql == usual.wql
    assert mean.mae == pytest.approx((zero.mae + usual.mae) / 2)
    assert math.isnan(usual.rmae_seasonal)  # yesterday was not given


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_missing_forecast_is_not_skipped_unless_left_out_for_all(wrong, level):
    """Neither in its metric nor in the mean, which over the other metrics would flatter."""
    history, forecast, actual = make_windows(6)
    gappy = forecast.copy()
    gappy[0, 0, 1, level] = wrong
    sums = ScoreSums(METRICS, SCORED_QUANTILES, 96)
    sums.add(gappy, actual, yesterdays_values(history, 96))
    for name in ("wql", "mae", "rmse", "rmae_seasonal", "coverage", "width", "crossing"):
        scores = [getattr(row, name) for row in sums.rows()]
        assert [math.isnan(score) for score in scores] == [False, True, False, True]
    gappy[0, 0, 1, level] = np.nan
    fair = comparable(actual, forecast, gappy)
    assert np.isnan(fair).sum() == 1 and np.isnan(fair[0, 0, 1])
    sums = ScoreSums(METRICS, SCORED_QUANTILES, 96)
    sums.add(gappy, fair)
    assert sums.rows()[1].observed == 6 * 96 - 1
    assert not math.isnan(sums.rows()[1].wql)


def test_scored_levels_are_picked_from_more():
    levels = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
    _, forecast, actual = make_windows(7, quantiles=7)
    picked = pick_quantiles(forecast, levels)
    np.testing.assert_array_equal(picked, forecast[..., [1, 3, 5]])
    many, few = ScoreSums(METRICS, levels, 96), ScoreSums(METRICS, SCORED_QUANTILES, 96)
    many.add(forecast, actual)
    few.add(picked, actual)
    # The absent yesterday is NaN in both, so compare what JSON holds.
    assert [r.to_dict() for r in many.rows()] == [r.to_dict() for r in few.rows()]
    with pytest.raises(ValueError, match=r"quantile 0\.9 is not among"):
        pick_quantiles(forecast[..., :3], (0.1, 0.25, 0.5))
    with pytest.raises(ValueError, match="7 quantiles on its last axis, but 3"):
        pick_quantiles(forecast, SCORED_QUANTILES)
    with pytest.raises(ValueError, match="quantile 0.1 is not among"):
        ScoreSums(METRICS, (0.5, 0.9), 96)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_wrong_shape_is_refused(which):
    history, forecast, actual = make_windows(8)
    arrays = [forecast, actual, yesterdays_values(history, 96)]
    arrays[which] = arrays[which][:, :-1]
    name = ("forecast", "actual", "yesterday")[which]
    with pytest.raises(ValueError, match=rf"{name} is \(6, 95, 3\)"):
        ScoreSums(METRICS, SCORED_QUANTILES, 96).add(*arrays)


def test_horizon_buckets():
    assert horizon_buckets(96, 300) == (
        Bucket("up to 30 min", 0, 6),
        Bucket("30 min to 2 h", 6, 24),
        Bucket("2 h to 8 h", 24, 96),
    )
    assert horizon_buckets(24, 3600) == (
        Bucket("up to 2 h", 0, 2),
        Bucket("2 h to 8 h", 2, 8),
        Bucket("8 h to 24 h", 8, 24),
    )
    assert horizon_buckets(18, 300) == (
        Bucket("up to 30 min", 0, 6),
        Bucket("30 min to 1 h 30 min", 6, 18),
    )
    assert horizon_buckets(3, 300) == (Bucket("up to 15 min", 0, 3),)


@given(horizon=st.integers(1, 300), step=st.integers(1, 7200))
def test_buckets_split_the_horizon_without_gap_or_overlap(horizon, step):
    buckets = horizon_buckets(horizon, step)
    steps = [step for bucket in buckets for step in range(bucket.start, bucket.stop)]
    assert steps == list(range(horizon))
    assert len({bucket.name for bucket in buckets}) == len(buckets)


def test_a_row_survives_json():
    row = Scores("cpu", math.nan, 1.0, 2.0, 0.5, 0.8, 3.0, 0.0, 17)
    plain = row.to_dict()
    assert plain["wql"] is None and plain["mae"] == 1.0
    assert Scores("cpu", math.inf, 1.0, 2.0, 0.5, 0.8, 3.0, 0.0, 17).to_dict() == plain
    back = Scores.from_dict(plain)
    assert math.isnan(back.wql) and back.to_dict() == plain


def test_merged_sums_are_those_of_all_windows():
    """Windows are scored once, by kind, and their total is never scored again."""
    history, forecast, actual = make_windows(5, missing=0.2)
    yesterday = yesterdays_values(history, 96)
    whole, parts = (ScoreSums(METRICS, SCORED_QUANTILES, 96) for _ in range(2))
    whole.add(forecast, actual, yesterday)
    for part in (slice(0, 2), slice(2, None)):
        sums = ScoreSums(METRICS, SCORED_QUANTILES, 96)
        sums.add(forecast[part], actual[part], yesterday[part])
        parts.merge(sums)
    assert parts.windows == whole.windows == 6
    for one, other in zip(parts.rows(), whole.rows(), strict=True):
        assert one.observed == other.observed
        assert one.wql == pytest.approx(other.wql) and one.width == pytest.approx(other.width)


def test_skill():
    assert skill(0.2, 0.4) == 0.5
    assert math.isnan(skill(0.2, 0.0))
    assert math.isnan(skill(math.nan, 0.4)) and math.isnan(skill(0.2, math.nan))
