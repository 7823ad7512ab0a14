"""Moments like now: by hand, and what follows them."""

import numpy as np
import pytest
import torch

from tft.analogs import ALIKE, APART, LIKENESSES, OTHER_WEEKDAY, RECENT, Likeness, analogs
from tft.normalise import WindowScale


def analogs_by_hand(
    metrics: np.ndarray, kept: np.ndarray, day: int, level: float, likeness: Likeness
) -> list[float]:
    """Return the first metric's quantile of every step, moment by moment and value by value."""
    horizon, series = len(kept), metrics[0]

    def recent(series: np.ndarray, end: int) -> np.ndarray:
        means = [np.mean(series[end - 1 : end])]
        for ticks in RECENT:
            seen = series[max(end - ticks, len(series) % APART) : end]
            means.append(np.nan if np.isnan(seen).all() else np.nanmean(seen))
        return np.array(means)

    def moment(series: np.ndarray, end: int) -> np.ndarray:
        return np.sign(recent(series, end)) * np.log1p(np.abs(recent(series, end)))

    def apart(series: np.ndarray, end: int) -> float:
        both = (moment(series, end) - moment(series, len(series))) ** 2
        return np.nan if np.isnan(both).all() else (1 + len(RECENT)) * np.nanmean(both)

    hour, found = 1 + RECENT.index(12), []
    for end in range(len(series) - APART, 0, -APART):
        ago = len(series) - end
        own = apart(series, end)
        if ago < horizon or end < APART or np.isnan(own):
            continue
        every = np.nanmean([apart(each, end) for each in metrics])
        distance = (1 - likeness.shared) * own + likeness.shared * every
        distance += 2 * likeness.hour * (1 - np.cos(2 * np.pi * ago / day))
        distance += likeness.per_day * ago / day
        distance += OTHER_WEEKDAY * ((ago + day // 2) // day % 7 != 0)
        found.append((distance, end))
    near = sorted(found)[:ALIKE]
    weights = np.maximum(1 - np.array([distance for distance, _ in near]) / near[-1][0], 1e-3)
    forecast = []
    for step in range(horizon):
        lift = [recent(series, len(series))[hour] - recent(series, end)[hour] for _, end in near]
        came = np.array([series[end + step] for _, end in near]) + kept[step] * np.nan_to_num(lift)
        order = np.argsort(came)[: (~np.isnan(came)).sum()]
        weight = weights[order]
        middle = (weight.cumsum() - weight / 2) / weight.sum()
        forecast.append(np.interp(level, middle, came[order]))
    return forecast


@pytest.mark.parametrize(("gaps", "begun"), [(0.0, 0), (0.2, 0), (0.2, 600)])
def test_analogs_by_hand(gaps: float, begun: int) -> None:
    """With gaps too, and where there are fewer moments than are looked for."""
    draw = np.random.default_rng(5)
    phases = np.arange(700) / 48 * 2 * np.pi + np.array([[0.0], [1.0]])
    series = np.sin(phases) + draw.normal(0, 0.3, (2, 700))
    series[:, :-1][draw.random((2, 699)) < gaps] = np.nan
    series[:, :begun] = np.nan
    earlier = torch.tensor(series).T.unsqueeze(0)
    kept = np.linspace(0.9, 0.0, 20)
    scale = WindowScale(torch.full((1, 2), -700.0), torch.full((1, 2), 4.0))
    told = analogs(
        earlier * 4 - 700, scale, torch.tensor(kept).expand(1, 2, 20), (0.1, 0.5, 0.9), day=48
    )
    for way, likeness in enumerate(LIKENESSES.values()):
        for place, level in enumerate((0.1, 0.5, 0.9)):
            expected = analogs_by_hand(series, kept, 48, level, likeness)
            found = told.quantiles[0, :, 0, way, place]
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    assert 0 < told.distance[0, 0] < 1
    tidy = 700 - 700 % APART
    assert told.share[0, 0] == pytest.approx(np.isfinite(series[0, -tidy:]).mean())


def test_what_followed_before_is_forecast_to_follow() -> None:
    """A rise, at whatever hour, that is followed by a burst two hours later."""
    earlier = torch.zeros(1, 28 * 288, 1)
    for begin in range(300, 7600, 500):
        earlier[0, begin : begin + 24] = 10.0
        earlier[0, begin + 48 : begin + 84] = 80.0
    forgotten = torch.zeros(1, 1, 96)
    scale = WindowScale(torch.zeros(1, 1), torch.ones(1, 1))
    calm = analogs(earlier, scale, forgotten, (0.5,), 288).quantiles[:, :, :, 0]
    earlier[0, -24:] = 10.0
    risen = analogs(earlier, scale, forgotten, (0.5,), 288).quantiles[:, :, :, 0]
    assert (calm[0, :, 0, 0] == 0).all()
    assert (risen[0, 40:55, 0, 0] == 80).all()
    assert (risen[0, :18, 0, 0] <= 10).all() and (risen[0, 80:, 0, 0] == 0).all()


def test_a_history_too_short_to_have_seen_what_follows_has_no_analogs() -> None:
    scale = WindowScale(torch.zeros(2, 3), torch.ones(2, 3))
    told = analogs(torch.ones(2, 30, 3), scale, torch.ones(2, 3, 40), (0.1, 0.5), day=24)
    assert told.quantiles.shape == (2, 40, 3, len(LIKENESSES), 2) and told.quantiles.isnan().all()
    assert told.distance.shape == (2, 3) and told.distance.isnan().all()


def by_name(earlier: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the median of each way, [H] of the first metric, as nothing is remembered."""
    M = earlier.shape[2]
    scale = WindowScale(torch.zeros(1, M), torch.ones(1, M))
    told = analogs(earlier, scale, torch.zeros(1, M, 96), (0.5,), 288).quantiles
    return dict(zip(LIKENESSES, told[0, :, 0, :, 0].T, strict=True))


def test_moments_of_late_know_of_a_change() -> None:
    """Midnight was followed by much for twenty days, and by nothing for eight."""
    earlier = torch.zeros(1, 28 * 288, 1)
    for day in range(20):
        earlier[0, day * 288 : day * 288 + 96] = 50.0
    told = by_name(earlier)
    assert (told["moments of late"] == 0).all()
    assert (told["moments like now"][:90] > 25).all()


def test_moments_at_this_hour_are_at_this_hour() -> None:
    """A job of the night, before which the last ticks look like those of any noon."""
    draw = torch.Generator().manual_seed(3)
    earlier = torch.randn(1, 28 * 288, 1, generator=draw)
    for day in range(28):
        earlier[0, day * 288 : day * 288 + 96] += 50.0
    told = by_name(earlier)["moments at this hour"]
    assert (told[:90] > 45).all()


def test_all_metrics_say_which_moments_are_alike() -> None:
    """One metric is flat before its bursts, which come when the other has risen."""
    earlier = torch.zeros(1, 28 * 288, 2)
    for begin in range(300, 7600, 500):
        earlier[0, begin : begin + 72, 1] = 50.0
        earlier[0, begin + 72 : begin + 200, 0] = 30.0
    earlier[0, -72:, 1] = 50.0
    told = by_name(earlier)
    assert (told["moments of late"][24:] == 30).all()
    assert (told["moments like now"] == 0).all()


def test_days_nobody_saw_change_nothing_but_the_share_seen() -> None:
    draw = torch.Generator().manual_seed(4)
    short = torch.randn(2, 3 * 48, 2, generator=draw)
    short[0, :60] = torch.nan
    month = torch.cat([torch.full((2, 25 * 48, 2), torch.nan), short], dim=1)
    scale = WindowScale(torch.zeros(2, 2), torch.ones(2, 2))
    kept = torch.rand(2, 2, 20, generator=draw)
    told, alone = (analogs(each, scale, kept, (0.1, 0.5), 48) for each in (month, short))
    assert torch.equal(told.quantiles, alone.quantiles)
    assert torch.equal(told.distance, alone.distance)
    torch.testing.assert_close(told.share, alone.share * 3 / 28)
