"""Charts of an evaluation show what they were given, whatever its size."""

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest

from report.evaluation_plots import convergence_figure, reliability_figure
from tests.reports import make_course, make_report


def calibrations(number):
    (first, *_) = make_report().calibration
    return [replace(first, metric=f"metric ${n}_{{") for n in range(number)]


@pytest.mark.parametrize("number", [1, 2, 5, 14])
def test_a_reliability_panel_per_metric(number):
    """Names with mathematical signs are names."""
    figure = reliability_figure(calibrations(number))
    figure.savefig(BytesIO())
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert titles == [f"metric ${n}_{{" for n in range(min(number, 12))]
    line = figure.axes[0].get_lines()[1]
    assert np.allclose(line.get_xydata(), [(10, 12), (50, 48), (90, 91)])


def test_a_course_with_a_loss_that_was_not_finite_has_a_gap():
    course = make_course((0.4, 0.3, 0.25))
    course = (course[0], replace(course[1], train_loss=None), course[2])
    figure = convergence_figure(course, best_epoch=3)
    figure.savefig(BytesIO())
    train, val, best = (line.get_ydata() for line in figure.axes[0].get_lines())
    assert np.isnan(train[1]) and list(val) == [0.4, 0.3, 0.25] and list(best) == [0.25]


def test_what_training_started_from_is_in_the_picture_where_it_was_kept():
    figure = convergence_figure(make_course((0.4, 0.5)), 0, first_loss=0.3)
    _, val, best = figure.axes[0].get_lines()
    assert [tuple(point) for point in val.get_xydata()] == [(0, 0.3), (1, 0.4), (2, 0.5)]
    assert tuple(best.get_xydata()[0]) == (0, 0.3) and best.get_label() == "kept: before training"
    _, val, best = convergence_figure(make_course((0.4, 0.5)), 1, 9.0).axes[0].get_lines()
    assert list(val.get_xdata()) == [1, 2] and best.get_label() == "kept: epoch 1"


@pytest.mark.parametrize(("rates", "scale"), [((0.01, 0.0001), "log"), ((0.003, 0.003), "linear")])
def test_learning_rates_over_decades_are_logarithmic(rates, scale):
    course = [
        replace(epoch, learning_rate=rate)
        for epoch, rate in zip(make_course((0.4, 0.3)), rates, strict=True)
    ]
    assert convergence_figure(course, 2).axes[1].get_yscale() == scale
