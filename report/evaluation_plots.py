"""Charts of an evaluation: whether quantiles lie where they say, and how training converged.

Drawn like those of `report.plots`: through `Figure` alone, in the same colours.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from report.plots import BLUE, GREY, VERMILION, tidy
from report.results import Calibration
from report.run_facts import Epoch
from report.text import shorten

COLUMNS, MOST_PANELS = 4, 12
PANEL = 2.7  # inches
TITLE_LENGTH = 26


def reliability_figure(calibration: Sequence[Calibration]) -> Figure:
    """Draw the share of actuals at or below each quantile over its level, a panel per metric.

    Args:
        calibration: of at least one metric; the first twelve are drawn.
    """
    drawn = calibration[:MOST_PANELS]
    columns = min(COLUMNS, len(drawn))
    rows = -(-len(drawn) // columns)
    size = (max(PANEL * columns, 4.5) + 0.3, (PANEL + 0.25) * rows + 0.2)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat[len(drawn) :]:
        axes.set_axis_off()
    for position, (axes, each) in enumerate(zip(panels.flat, drawn, strict=False)):
        axes.plot([0, 100], [0, 100], color=GREY, linewidth=1.0, linestyle="--")
        levels, shares = 100 * np.array(each.levels), 100 * np.array(each.at_or_below)
        axes.plot(levels, shares, color=BLUE, linewidth=2.0, marker="o", markersize=5)
        axes.set(xlim=(0, 100), ylim=(0, 100), xticks=range(0, 101, 25), yticks=range(0, 101, 25))
        axes.set_aspect("equal")
        axes.set_title(shorten(each.metric, TITLE_LENGTH), fontsize=10).set_parse_math(False)
        if position % columns == 0:
            axes.set_ylabel("actuals at or below, %", fontsize=9)
        if position + columns >= len(drawn):
            axes.set_xlabel("quantile level, %", fontsize=9)
        tidy(axes, grid="both")
    return figure


def convergence_figure(
    course: Sequence[Epoch], best_epoch: int, first_loss: float | None = None
) -> Figure:
    """Draw training and validation loss over the epochs, and the learning rate below.

    Args:
        course: at least one epoch.
        best_epoch: the one that was kept; 0: what training started from.
        first_loss: validation loss of that. It is drawn where it was kept: mostly it is so large
            that the epochs would all lie on one line.
    """
    figure = Figure(figsize=(8.5, 4.6), layout="constrained")
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    numbers = [epoch.number for epoch in course]
    train, val = (
        [np.nan if each is None else each for each in column]
        for column in zip(*((epoch.train_loss, epoch.val_loss) for epoch in course), strict=True)
    )
    style = {"marker": "o", "markersize": 4}
    losses.plot(numbers, train, color=GREY, linewidth=1.2, label="training, with dropout", **style)
    judged = dict(zip(numbers, val, strict=True))
    if best_epoch == 0 and first_loss is not None:
        judged = {0: first_loss, **judged}
    losses.plot(*zip(*judged.items(), strict=True), color=BLUE, linewidth=2.0, label="validation",
                **style)  # fmt: skip
    if best_epoch in judged:
        kept = f"epoch {best_epoch}" if best_epoch else "before training"
        losses.plot(
            [best_epoch], [judged[best_epoch]], linestyle="none", marker="o",
            markersize=10, color=VERMILION, zorder=3, label=f"kept: {kept}",
        )  # fmt: skip
    losses.set_ylabel("loss")
    losses.legend(frameon=False)
    values = [epoch.learning_rate for epoch in course]
    rates.plot(numbers, values, color=BLUE, linewidth=1.5, **style)
    rates.set_ylabel("learning rate")
    if max(values) > 10 * min(values):
        rates.set_yscale("log")
    else:
        rates.set_ylim(bottom=0.0)
    rates.set_xlabel("epoch")
    rates.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (losses, rates):
        tidy(axes, grid="both")
    figure.align_ylabels()
    return figure
