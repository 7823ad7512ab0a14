"""Charts are whole PNG files with something on them, and leave nothing else behind."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from report.plots import (
    FanPanel,
    _draw_fan,
    as_image,
    fan_figure,
    lr_curve,
    save_figure,
    selection_bars,
)

SEVEN = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
LINE = ([0.1, 0.2], [0.5, 0.4], [0.5, 0.4], 0.2)  # a learning-rate curve
BLUE, VERMILION = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)


def make_panel(server="web-01", metric="cpu_percent", quantiles=SEVEN, **changes):
    rng = np.random.default_rng(0)
    history = 50.0 + rng.normal(0.0, 5.0, 288)
    history[100:130] = np.nan
    history[[200, 202]] = np.nan
    actual = 50.0 + rng.normal(0.0, 5.0, 96)
    actual[20:30] = np.nan
    offsets = np.linspace(-20.0, 20.0, len(quantiles))
    fields = {
        "origin_seconds": 1_772_000_100,
        "step_seconds": 300,
        "history": history,
        "forecast": np.full((96, 1), 50.0) + offsets,
        "actual": actual,
    }
    return FanPanel(server, metric, quantiles=quantiles, **{**fields, **changes})


def fan_chart(path, panels, title):
    save_figure(fan_figure(panels, title), path)


def pixels_of(path, colour):
    """Count the pixels of exactly this colour in a PNG."""
    image = (imread(path)[..., :3] * 255).round().astype(int)
    return int((image == colour).all(axis=-1).sum())


def only_file(folder):
    """Return the one file there; a temporary left over would be a second one."""
    (path,) = folder.iterdir()
    return path


def test_fan_chart_of_four_metrics_and_three_servers(tmp_path):
    metrics = ("cpu_percent", "memory_percent", "net_in_kbs", "load_average")
    panels = [make_panel(f"server-{s}", metric) for s in range(3) for metric in metrics]
    fan_chart(tmp_path / "fan.png", panels[:-1], "run $7_x")  # one pair is left out
    path = only_file(tmp_path)
    assert path.name == "fan.png"
    height, width = imread(path).shape[:2]
    assert width > 1200 and height > 900
    shades = [(0xCF, 0xE3, 0xF2), (0x8F, 0xC0, 0xE4), BLUE, VERMILION]
    # Far more than the legend alone has.
    assert all(pixels_of(path, colour) > 3000 for colour in shades)


def test_only_what_is_there_is_drawn(tmp_path):
    """Without an actual there is no contrasting line, with three levels no outer shade."""
    panel = make_panel(quantiles=(0.1, 0.5, 0.9), actual=None)
    fan_chart(tmp_path / "fan.png", [panel], "run")
    path = only_file(tmp_path)
    assert pixels_of(path, VERMILION) == 0
    assert pixels_of(path, (0xCF, 0xE3, 0xF2)) == 0
    assert pixels_of(path, (0x8F, 0xC0, 0xE4)) > 3000


@pytest.mark.parametrize(
    "changes",
    [
        {"history": np.full(288, np.nan)},
        {"history": np.zeros(0)},
        {"actual": np.full(96, np.nan), "forecast": np.full((96, 7), np.nan)},
        {"log_scale": True, "history": np.r_[np.zeros(10), np.full(20, 3e6)]},
        {"log_scale": True, "forecast": np.full((96, 7), 5.0) + np.arange(-9, 10, 3)},
        {"step_seconds": 3600},
        {"step_seconds": 60, "origin_seconds": 0},
        {"quantiles": (0.5,), "forecast": np.full((96, 1), 5.0)},
        {"server": "a" * 90, "metric": "$m_{$ not mathematics"},
    ],
)
def test_odd_panels_are_drawn_without_a_warning(tmp_path, changes):
    fan_chart(tmp_path / "fan.png", [make_panel(**changes)], "run $7_{$")
    assert pixels_of(only_file(tmp_path), (255, 255, 255)) < 7.5 * 3.7 * 120**2


def test_fan_chart_refuses_what_does_not_fit(tmp_path):
    path = tmp_path / "fan.png"
    with pytest.raises(ValueError, match="at most 4 x 4"):
        fan_chart(path, [make_panel(f"s{n}") for n in range(5)], "run")
    with pytest.raises(ValueError, match="give each pair once"):
        fan_chart(path, [make_panel(), make_panel()], "run")
    with pytest.raises(ValueError, match="0 panels"):
        fan_chart(path, [], "run")
    with pytest.raises(ValueError, match=r"forecast is \(96, 3\), expected \[H, 7\]"):
        make_panel(forecast=np.zeros((96, 3)))
    with pytest.raises(ValueError, match="lack the median"):
        make_panel(quantiles=(0.1, 0.9))
    with pytest.raises(ValueError, match=r"actual is \(5,\)"):
        make_panel(actual=np.zeros(5))
    assert not path.exists()


def test_a_failed_chart_leaves_the_old_one_and_no_temporary(tmp_path, monkeypatch):
    path = tmp_path / "lr.png"
    lr_curve(path, *LINE)
    before = path.read_bytes()

    def half_written(self, target, **options):
        target.write_bytes(b"half a chart")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", half_written)
    with pytest.raises(OSError, match="disk full"):
        lr_curve(path, *LINE)
    assert only_file(tmp_path).read_bytes() == before


def lines_of(panel):
    """Draw a panel and return its history, median and actual as (times, values)."""
    handles = _draw_fan(Figure().subplots(), panel)
    return [handles[name].get_data() for name in ("history", "median forecast", "actual")]


def test_what_follows_starts_where_history_ends():
    """Else every panel has a hole one tick wide at "now"."""
    panel = make_panel(log_scale=True)
    (past, history), *others = lines_of(panel)
    for (times, values), drawn in zip(others, (panel.forecast[:, 3], panel.actual), strict=True):
        assert (times[0], values[0]) == (past[-1], history[-1])
        assert times[1].astype(int) == panel.origin_seconds
        np.testing.assert_array_equal(values[1:], drawn)


def test_no_line_bridges_a_gap_at_now():
    history, actual = np.full(288, 50.0), np.full(96, 50.0)
    history[-1] = np.nan
    _, (_, median), _ = lines_of(make_panel(history=history))
    assert np.isnan(median[0])
    actual[0] = np.nan
    *_, (_, after) = lines_of(make_panel(history=np.full(288, 50.0), actual=actual))
    assert np.isnan(after[:2]).all()


def test_an_image_is_the_file_without_a_file(tmp_path):
    """TensorBoard gets pixels; pyplot, which chooses a display, is never imported."""
    fan_chart(tmp_path / "fan.png", [make_panel()], "run")
    file = (imread(only_file(tmp_path))[..., :3] * 255).round().astype(np.uint8)
    image = as_image(fan_figure([make_panel()], "run"))
    assert image.dtype == np.uint8
    np.testing.assert_array_equal(image, file)
    small = as_image(fan_figure([make_panel()], "run"), dpi=60)
    assert small.shape[:2] == (image.shape[0] // 2, image.shape[1] // 2)


def test_no_text_of_a_fan_is_cut_off():
    """Its panels are placed in inches: names and tick labels must fit what is left around them."""
    names = [f"{s}-{'a' * 90}" for s in range(3)], [f"{m}_{'b' * 90}" for m in range(2)]
    actual = np.full(96, -123456.0)
    for servers, metrics in ((names[0], names[1]), (["web"], ["cpu"])):
        panels = [make_panel(s, m, actual=actual) for s in servers for m in metrics]
        edges = as_image(fan_figure(panels, "run"), dpi=80)
        for edge in (edges[0], edges[-1], edges[:, 0], edges[:, -1]):
            assert (edge == 255).all()


WEIGHTS = {
    "static": {"server": 0.25, "profile": 0.75},
    "past": {"cpu_percent": 0.125, "$m_{$ not mathematics": 0.5, "hour_of_day": 0.375},
    "future": {"hour_of_day": 1.0},
}


def bars_of(axes):
    """Return a panel's bars from the top: name, text beside it, length as a share of the panel."""
    bars = sorted(axes.patches, key=lambda bar: bar.get_y())
    texts = [text.get_text() for text in axes.texts]
    values, names = texts[: len(bars)], texts[len(bars) :]
    lengths = [bar.get_width() / axes.get_xlim()[1] for bar in bars]
    return list(zip(names, values, lengths, strict=True))


def test_bars_are_sorted_and_comparable_between_panels():
    figure = selection_bars(WEIGHTS, "run $7_{$")
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "static variables", "past variables", "future variables",
    ]  # fmt: skip
    static, past, future = map(bars_of, figure.axes)
    assert [row[:2] for row in past] == [
        ("$m_{$ not mathematics", "50.0 %"), ("hour_of_day", "37.5 %"), ("cpu_percent", "12.5 %"),
    ]  # fmt: skip
    assert future[0][2] == pytest.approx(2 * past[0][2]) == pytest.approx(4 * static[1][2])
    blue = (as_image(figure, dpi=80) == BLUE).all(-1).sum()
    assert blue > 5000


def test_small_weights_of_many_variables_are_one_bar():
    weights = {f"metric{n:02}": (30 - n) / 465 for n in range(30)}
    (bars,) = map(bars_of, selection_bars({"past": weights}, "run").axes)
    assert [name for name, *_ in bars] == [*list(weights)[:15], "15 others"]
    assert bars[-1][1] == f"{100 * sum(list(weights.values())[15:]):.1f} %"


@pytest.mark.parametrize("weights", [{"a": 0.0, "b": 0.0}, {"a": np.nan, "b": np.nan}])
def test_odd_weights_are_drawn_without_a_warning(weights):
    figure = selection_bars({"static": {f"{name * 90}": w for name, w in weights.items()}}, "run")
    image = as_image(figure)
    assert (image != 255).any()
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert (edge == 255).all()
