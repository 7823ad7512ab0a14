"""Moments like now: by hand, and what follows them."""

import numpy as np
import pytest
import torch

from tft.analogs import ALIKE, APART, HOUR, OTHER_WEEKDAY, PER_DAY, RECENT, analogs
from tft.normalise import WindowScale


def analogs_by_hand(series: np.ndarray, kept: np.ndarray, day: int, level: float) -> list[float]:
    """Return a quantile of every step, moment by moment and value by value."""
    horizon = len(kept)

    def recent(end: int) -> np.ndarray:
        means = [np.mean(series[end - 1 : end])]
        for ticks in RECENT:
            seen = series[max(end - ticks, len(series) % APART) : end]
            means.append(np.nan if np.isnan(seen).all() else np.nanmean(seen))
        return np.array(means)

    def moment(end: int) -> np.ndarray:
        return np.sign(recent(end)) * np.log1p(np.abs(recent(end)))

    now, found = moment(len(series)), []
    hour = 1 + RECENT.index(12)
    for end in range(len(series) - APART, 0, -APART):
        ago = len(series) - end
        if ago < horizon or end < APART or np.isnan(moment(end)).all():
            continue
        distance = (1 + len(RECENT)) * np.nanmean((moment(end) - now) ** 2)
        distance += 2 * HOUR * (1 - np.cos(2 * np.pi * ago / day)) + PER_DAY * ago / day
        distance += OTHER_WEEKDAY * ((ago + day // 2) // day % 7 != 0)
        found.append((distance, end))
    near = sorted(found)[:ALIKE]
    weights = np.maximum(1 - np.array([distance for distance, _ in near]) / near[-1][0], 1e-3)
    forecast = []
    for step in range(horizon):
        lift = [recent(len(series))[hour] - recent(end)[hour] for _, end in near]
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
    series = np.sin(np.arange(700) / 48 * 2 * np.pi) + draw.normal(0, 0.3, 700)
    series[:-1][draw.random(699) < gaps] = np.nan
    series[:begun] = np.nan
    earlier = torch.tensor(series).view(1, 700, 1)
    kept = np.linspace(0.9, 0.0, 20)
    scale = WindowScale(torch.tensor([[-700.0]]), torch.tensor([[4.0]]))
    told = analogs(
        earlier * 4 - 700, scale, torch.tensor(kept).view(1, 1, 20), (0.1, 0.5, 0.9), day=48
    )
    for place, level in enumerate((0.1, 0.5, 0.9)):
        expected = analogs_by_hand(series, kept, 48, level)
        np.testing.assert_allclose(told.quantiles[0, :, 0, place], expected, rtol=1e-9, atol=1e-9)
    assert 0 < told.distance < 1
    tidy = 700 - 700 % APART
    assert told.share == pytest.approx(np.isfinite(series[-tidy:]).mean())


def test_what_followed_before_is_forecast_to_follow() -> None:
    """A rise, at whatever hour, that is followed by a burst two hours later."""
    earlier = torch.zeros(1, 28 * 288, 1)
    for begin in range(300, 7600, 500):
        earlier[0, begin : begin + 24] = 10.0
        earlier[0, begin + 48 : begin + 84] = 80.0
    forgotten = torch.zeros(1, 1, 96)
    scale = WindowScale(torch.zeros(1, 1), torch.ones(1, 1))
    calm = analogs(earlier, scale, forgotten, (0.5,), 288).quantiles
    earlier[0, -24:] = 10.0
    risen = analogs(earlier, scale, forgotten, (0.5,), 288).quantiles
    assert (calm[0, :, 0, 0] == 0).all()
    assert (risen[0, 40:55, 0, 0] == 80).all()
    assert (risen[0, :18, 0, 0] <= 10).all() and (risen[0, 80:, 0, 0] == 0).all()


def test_a_history_too_short_to_have_seen_what_follows_has_no_analogs() -> None:
    scale = WindowScale(torch.zeros(2, 3), torch.ones(2, 3))
    told = analogs(torch.ones(2, 30, 3), scale, torch.ones(2, 3, 40), (0.1, 0.5), day=24)
    assert told.quantiles.shape == (2, 40, 3, 2) and told.quantiles.isnan().all()
    assert told.distance.shape == (2, 3) and told.distance.isnan().all()
