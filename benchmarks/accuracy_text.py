"""The tables of `benchmarks.accuracy`, for a terminal and for the README, and what they reach."""

from math import isnan, nan
from statistics import mean, stdev
from typing import Any, NamedTuple

from benchmarks.holdout import KNOWN, UNSEEN

Row = dict[str, Any]
TFT, FLAT, LIGHTGBM, PEER_TFT = "tft", "window_quantiles", "lightgbm", "pytorch_forecasting"
FORECASTERS = {  # in the order of the tables
    TFT: "this",
    LIGHTGBM: "LightGBM on window summaries",
    PEER_TFT: "pytorch-forecasting TFT",
    FLAT: "last 24 h's own quantiles, held flat",
    "seasonal_naive": "yesterday's same hours",
    "last_value": "last value",
}
GROUPS = {KNOWN: "known machines, later", UNSEEN: "machines never seen"}
COVERAGE = (0.77, 0.83)  # of an 80 % interval


class Measured(NamedTuple):
    """A score over the seeds."""

    mean: float
    spread: float
    """Standard deviation, NaN of a single seed."""


class Goal(NamedTuple):
    """A goal, and the metric that is farthest from it."""

    what: str
    metric: str
    measured: float
    met: bool


def over_seeds(content: Row, group: str, forecaster: str, score: str) -> dict[str, Measured]:
    """Return a score of a forecaster by metric, the mean over metrics last; {}: it did not run."""
    runs = [
        {row["metric"]: row[score] for row in result["scores"][group]}
        for result in content["results"]
        if result["forecaster"] == forecaster
    ]
    values: dict[str, Measured] = {}
    for metric in runs[0] if runs else ():
        each = [nan if run[metric] is None else run[metric] for run in runs]
        values[metric] = Measured(mean(each), stdev(each) if len(each) > 1 else nan)
    return values


def below(content: Row, group: str, forecaster: str, other: str) -> dict[str, float]:
    """Return by metric how many per cent a forecaster's loss lies below another's."""
    mine, theirs = (over_seeds(content, group, name, "wql") for name in (forecaster, other))
    return {name: 100 * (1 - mine[name].mean / theirs[name].mean) for name in mine if theirs}


def goals(content: Row) -> list[Goal]:
    """Judge the project's forecaster by the metric it does worst on: means over the seeds."""
    found = []
    for group, than_flat, than_peers in ((KNOWN, 25, 10), (UNSEEN, 20, 0)):
        for other in (FLAT, LIGHTGBM, PEER_TFT):
            least = than_flat if other == FLAT else than_peers
            margins = below(content, group, TFT, other)
            if margins:
                worst = min(margins, key=lambda name: margins[name])
                what = f"{GROUPS[group]}: {least} % below {FORECASTERS[other]}"
                found.append(Goal(what, worst, margins[worst], margins[worst] >= least))
        covered = over_seeds(content, group, TFT, "coverage")
        worst = max(covered, key=lambda name: abs(covered[name].mean - 0.8))
        share = covered[worst].mean
        what = f"{GROUPS[group]}: 80 % interval holds 77 to 83 %"
        found.append(Goal(what, worst, 100 * share, COVERAGE[0] <= share <= COVERAGE[1]))
        crossed = max(value.mean for value in over_seeds(content, group, TFT, "crossing").values())
        found.append(Goal(f"{GROUPS[group]}: no crossing", "any", 100 * crossed, crossed == 0))
    return found


def as_text(content: Row) -> str:
    """Lay out both groups for a terminal, then the goals."""
    lines = []
    for group, title in GROUPS.items():
        lines += [f"{title}: {_windows(content, group)}", *_tables(content, group), ""]
    lines.append("goals, by the worst metric, means over the seeds")
    lines += [
        f"{'met' if goal.met else 'not met':<9}{goal.what}: {goal.measured:.1f} % ({goal.metric})"
        for goal in goals(content)
    ]
    return "\n".join(lines)


def _tables(content: Row, group: str) -> list[str]:
    """Return a terminal's tables of one group."""
    metrics = [*content["targets"], "mean"]
    head = "".join(f"{name:>18}" for name in metrics)
    blocks = {
        f"{'weighted quantile loss':<38}{head}": lambda name: [
            f"{value.mean:.3f}{_spread(value)}"
            for value in over_seeds(content, group, name, "wql").values()
        ],
        "% below the flat quantiles": lambda name: [
            f"{value:.1f}" for value in below(content, group, name, FLAT).values()
        ],
        "% of ticks in the 80 % interval": lambda name: [
            f"{100 * value.mean:.1f}"
            for value in over_seeds(content, group, name, "coverage").values()
        ],
        "% of quantiles crossed": lambda name: [
            f"{100 * value.mean:.2f}"
            for value in over_seeds(content, group, name, "crossing").values()
        ],
    }
    lines = []
    for title, cells in blocks.items():
        lines.append(title)
        for name in ran(content):
            lines.append(f"{FORECASTERS[name]:<38}" + "".join(f"{c:>18}" for c in cells(name)))
    return lines


def as_markdown(content: Row) -> str:
    """Lay out both groups for the README: losses, coverage in brackets, then the margins."""
    metrics = [*content["targets"], "mean"]
    lines = []
    for group, title in GROUPS.items():
        lines += [
            f"| {title}: {_windows(content, group)} | " + " | ".join(metrics) + " | crossed |",
            "|---" * (len(metrics) + 2) + "|",
        ]
        for name in ran(content):
            losses = over_seeds(content, group, name, "wql")
            covered = over_seeds(content, group, name, "coverage")
            crossed = over_seeds(content, group, name, "crossing")["mean"].mean
            cells = [
                f"{losses[m].mean:.3f}{_spread(losses[m])}, {100 * covered[m].mean:.0f} %"
                for m in metrics
            ]
            row = [FORECASTERS[name], *cells, f"{100 * crossed:.1f} %"]
            lines.append("| " + " | ".join(row) + " |")
        for other in (name for name in (FLAT, LIGHTGBM, PEER_TFT) if name in ran(content)):
            margins = below(content, group, TFT, other).values()
            cells = [f"{margin:.0f} %" for margin in margins]
            lines.append(f"| this, below {FORECASTERS[other]} | " + " | ".join(cells) + " | |")
        lines.append("")
    return "\n".join(lines)


def ran(content: Row) -> list[str]:
    """Name the forecasters that have a result, in the order of the tables."""
    there = {result["forecaster"] for result in content["results"]}
    return [name for name in FORECASTERS if name in there]


def _windows(content: Row, group: str) -> str:
    return f"{content['windows'][group]:,} windows of {content['servers'][group]} servers"


def _spread(value: Measured) -> str:
    """Write the spread over seeds; nothing of a single one."""
    return "" if isnan(value.spread) else f" ± {value.spread:.3f}"
