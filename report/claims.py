"""What an evaluation allows to be said of a forecaster, with its figures, and what not, and why.

Sentences follow from what the run and the evaluation measured; none is made without a figure that
stands in the report too.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from report.batches import UNCALIBRATED
from report.naive import FLAT
from report.results import EvaluationReport, GroupScores
from report.run_facts import PLATEAU_EPOCHS, RunFacts
from report.scores import Scores, skill
from report.text import NAIVE_LABELS, number_cell, share_cell

WEEK_DAYS = 7.0
COVERAGE_TOLERANCE = 0.03  # an 80 % interval that holds 77 to 83 % is one
# Of the validation loss. A rule of thumb, so the report says what it is and what it is not.
LOSS_BANDS = ((0.10, "excellent"), (0.20, "good"), (0.35, "fair"))
WORST_BAND = "poor"


@dataclass(frozen=True)
class Claims:
    """What an evaluation supports."""

    maturity: str
    """How far the run is, in a few words."""
    facts: tuple[str, ...]
    """What that is derived from: epochs, days of data, plateau, held-out evaluation."""
    supported: tuple[str, ...]
    """Sentences that may be quoted, figures in them."""
    unsupported: tuple[str, ...]
    """What must not be said, and why."""


def derive_claims(report: EvaluationReport, run: RunFacts | None) -> Claims:
    """Derive what may be claimed.

    Args:
        report: of the evaluation.
        run: what the run tells of its training; None: there is no run around the model, or it has
            not ended.
    """
    return Claims(
        maturity=_maturity(report, run),
        facts=tuple(_facts(report, run)),
        supported=tuple(_supported(report, run)),
        unsupported=tuple(_unsupported(report, run)),
    )


def loss_band(loss: float) -> str:
    """Return the band of a validation loss in normalised units."""
    return next((name for limit, name in LOSS_BANDS if loss < limit), WORST_BAND)


def whole_groups(report: EvaluationReport) -> list[GroupScores]:
    """Return the groups whose histories were not cut: together, all windows of the evaluation."""
    return [group for group in report.groups if group.history_hours is None]


def held_out_groups(report: EvaluationReport) -> list[GroupScores]:
    """Return those of them no window of which was trained on or chose the best epoch."""
    return [group for group in whole_groups(report) if group.validation is False]


def _maturity(report: EvaluationReport, run: RunFacts | None) -> str:
    """Say how far the run is."""
    if run is None:
        return "unknown: no finished run around the model"
    if run.whole_epochs < 2:
        return "proof of concept: less than two whole epochs"
    if run.best_epoch == 0:
        return "nothing learnt: no epoch was better than what training started from"
    tested = "tested on held-out windows" if held_out_groups(report) else "not tested"
    return f"{'trained to a plateau' if run.plateau else 'not trained to a plateau'}, {tested}"


def _facts(report: EvaluationReport, run: RunFacts | None) -> Iterator[str]:
    """Say what maturity is derived from."""
    if run is not None:
        yield (
            f"Epochs: {run.epochs}, of {run.windows_per_epoch:,} windows each{_cut(run)}; "
            f"{_best(run)}"
        )
        trained = (
            "" if run.trained_days is None else f"; trained on the first {run.trained_days:.1f}"
        )
        yield f"Data: {run.data_days:.1f} days of {run.num_servers:,} servers{trained}"
        yield f"Plateau: {_plateau(run)}"
    held_out = held_out_groups(report)
    if held_out:
        parts = [f"{group.windows:,} windows of {_servers(group)}" for group in held_out]
        yield f"Held-out evaluation: {' and '.join(parts)}"
    elif any(group.validation for group in report.groups):
        yield "Held-out evaluation: none; every window is of the part that chose the best epoch"
    else:
        yield "Held-out evaluation: not known; the run does not tell what chose its best epoch"


def _cut(run: RunFacts) -> str:
    return ", but for the last, cut short by the clock" if run.whole_epochs < run.epochs else ""


def _best(run: RunFacts) -> str:
    """Say which epoch was kept, and what training gained."""
    first = run.first_loss
    if run.best_epoch == 0:
        return "none was better than what training started from, which is kept"
    before = "" if first is None else f" ({number_cell(first)} before training)"
    loss = f"validation loss {number_cell(run.best_loss)}{before}"
    return f"the best was number {run.best_epoch}, {loss}"


def _plateau(run: RunFacts) -> str:
    """Say whether training stopped gaining, and how that is known."""
    if run.best_epoch == 0:
        return "none; no epoch was better than what training started from"
    if run.patience_ran_out:
        return "reached; patience ran out without a better validation loss"
    if run.last_gain is None:
        return "too few epochs to tell"
    gain = f"the last quarter of epochs lowered the best loss by {share_cell(run.last_gain)}"
    if run.epochs < PLATEAU_EPOCHS:
        return f"too few epochs to tell; {gain}"
    return f"{'reached' if run.plateau else 'not reached'}; {gain}"


def _supported(report: EvaluationReport, run: RunFacts | None) -> Iterator[str]:
    """Return the sentences the figures support."""
    if run is not None and run.whole_epochs < 2:
        yield (
            f"Proof of concept: it trains, forecasts, and is scored beside naive forecasts on "
            f"{report.windows:,} windows"
        )
    else:
        held_out = held_out_groups(report)
        for group in held_out or whole_groups(report):
            yield from _of_group(group)
        if run is not None and len(held_out) == len(whole_groups(report)):
            yield from _closeness(report)
        for group in report.groups:
            if group.history_hours is not None and held_out and group.validation is False:
                cold = ", a cold start" if group.cold_start else ""
                yield (
                    f"From {group.history_hours:g} h of history{cold}: weighted quantile loss "
                    f"{_compared(group, [FLAT])}, on {group.windows:,} windows of {_servers(group)}"
                )
    if report.latency is not None:
        speed = report.latency
        yield (
            f"It forecasts {speed.windows_per_second:,.0f} windows a second in batches of "
            f"{speed.batch_size}, and one in {speed.one_window_ms:.1f} ms, on {speed.device} "
            f"with {speed.threads} thread{'s' * (speed.threads != 1)}"
        )


def _of_group(group: GroupScores) -> Iterator[str]:
    """Say how the model did on windows of one kind."""
    where = f"On {group.windows:,} {_kind(group)} of {_servers(group)}"
    rows = _model(group)
    yield f"{where}, weighted quantile loss {_compared(group, NAIVE_LABELS)}"
    scored = [row for row in rows[:-1] if not math.isnan(row.wql)]
    won = [row.metric for row in scored if not _better_naives(group, row)]
    if won and len(won) == len(rows) - 1:
        margin, metric, naive = _closest(group)
        yield (
            f"There it beats every naive forecast on every metric; the smallest margin is "
            f"{share_cell(margin)}, over {NAIVE_LABELS[naive]} on {metric}"
        )
    elif won:
        yield f"There it beats every naive forecast on {', '.join(won)}"
    covered = [row.coverage for row in scored]
    if covered:
        before = group.scores.get(UNCALIBRATED)
        uncalibrated = f", {share_cell(before[-1].coverage)} before calibration" if before else ""
        yield (
            f"There its 80 % interval held {share_cell(rows[-1].coverage)} of what came"
            f"{uncalibrated}, {share_cell(min(covered))} to {share_cell(max(covered))} by metric"
        )


def _closeness(report: EvaluationReport) -> Iterator[str]:
    """Say how often the median of a percentage was close."""
    for each in report.calibration:
        if each.within_10_points is not None and not math.isnan(each.within_10_points):
            yield (
                f"{share_cell(each.within_10_points)} of {each.metric} ticks came within 10 points "
                "of the forecast's median"
            )


def _unsupported(report: EvaluationReport, run: RunFacts | None) -> Iterator[str]:
    """Return what must not be said, the gravest first."""
    if run is None:
        yield (
            "How long it trained, on how much data, and whether these windows chose its best "
            "epoch: there is no finished run around the model"
        )
    elif run.whole_epochs < 2:
        yield "An accuracy figure: less than two whole epochs are a proof of concept; train on"
    elif run.best_epoch == 0:
        yield (
            "That it learnt from these data: no epoch had a lower validation loss than "
            f"{_start(run)}; bring more days"
        )
    yield from _about_held_out(report)
    if run is not None and run.init is not None:
        yield (
            f"That windows called held out, or servers called new, were never trained on: training "
            f"began from the weights of {run.init}, which may have seen them"
        )
    if report.not_finite:
        yield (
            f"Any score of what it passed on: {report.not_finite:,} forecasts of observed ticks "
            "are no numbers"
        )
    for group in held_out_groups(report) or whole_groups(report):
        yield from _failures(group)
    if run is not None and not run.plateau:
        yield f"That this is the best it can do. Plateau: {_plateau(run)}"
    days = None if run is None else run.trained_days or run.data_days
    if days is not None and days < WEEK_DAYS:
        yield f"A weekly pattern: it was trained on {days:.1f} days, less than a week"
    if not any(group.new for group in report.groups):
        yield (
            "Forecasts of servers never trained on: no such server was evaluated; hold some out "
            "with --validation-servers, or evaluate another fleet's table"
        )
    yield (
        "How much this varies over seeds and seasons: it is one training and one stretch of time, "
        "and neighbouring windows overlap; cross-validate measures the spread over time"
    )


def _start(run: RunFacts) -> str:
    """Name what training started from."""
    if run.init is not None:
        return f"the weights of {run.init} it started from"
    return "the network before training, whose weights are random beside naive forecasts"


def _about_held_out(report: EvaluationReport) -> Iterator[str]:
    """Say what is missing for a held-out score."""
    groups = whole_groups(report)
    chose = sum(group.windows for group in groups if group.validation)
    if chose and chose == report.windows:
        yield (
            f"An accuracy figure: all {chose:,} windows are of the validation part, which chose "
            "the best epoch; evaluate a later table with --data"
        )
    elif chose:
        yield (
            f"The scores over all windows as held-out ones: {chose:,} of {report.windows:,} "
            "windows are of the validation part, which chose the best epoch; see the groups"
        )
    elif any(group.validation is None for group in groups):
        yield (
            "An accuracy figure: nobody knows whether these windows chose the best epoch; "
            "evaluate a table later than all that training saw"
        )


def _failures(group: GroupScores) -> Iterator[str]:
    """Say on which metrics a naive forecast is better, or the interval is not what it says."""
    rows = _model(group)[:-1]
    for naive, label in NAIVE_LABELS.items():
        lost = [
            f"{row.metric} ({number_cell(row.wql)}, that one's "
            f"{number_cell(_naive_row(group, naive, row.metric).wql)})"
            for row in rows
            if naive in _better_naives(group, row)
        ]
        if lost:
            yield f"Better than {label} on {', '.join(lost)}; {group.name}"
    missed = [
        f"{row.metric} (it held {share_cell(row.coverage)})"
        for row in rows
        if abs(row.coverage - 0.8) > COVERAGE_TOLERANCE
    ]
    if missed:
        yield f"An interval of 80 % of {', '.join(missed)}; {group.name}"


def _compared(group: GroupScores, naives: Iterable[str]) -> str:
    """Write the model's mean loss, and by how much it is below or above naive ones'."""
    loss = _model(group)[-1].wql
    parts = []
    for naive in naives:
        theirs = group.scores[naive][-1].wql
        gain = skill(loss, theirs)
        if math.isnan(gain):
            continue
        side = "below" if gain >= 0 else "above"
        parts.append(
            f"{share_cell(abs(gain))} {side} {NAIVE_LABELS[naive]} ({number_cell(theirs)})"
        )
    metrics = len(_model(group)) - 1
    mean = "" if metrics == 1 else f" (mean of {metrics} metrics)"
    return ", ".join([f"{number_cell(loss)}{mean}", *parts])


def _better_naives(group: GroupScores, row: Scores) -> list[str]:
    """Name the naive forecasts that the model does not beat on a metric."""
    return [n for n in NAIVE_LABELS if row.wql >= _naive_row(group, n, row.metric).wql]


def _closest(group: GroupScores) -> tuple[float, str, str]:
    """Return the smallest skill, with its metric and naive forecast."""
    return min(
        (skill(row.wql, _naive_row(group, naive, row.metric).wql), row.metric, naive)
        for row in _model(group)[:-1]
        for naive in NAIVE_LABELS
        if not math.isnan(row.wql)
    )


def _model(group: GroupScores) -> tuple[Scores, ...]:
    """Return the rows of the model, which stands first."""
    return next(iter(group.scores.values()))


def _naive_row(group: GroupScores, naive: str, metric: str) -> Scores:
    return next(row for row in group.scores[naive] if row.metric == metric)


def _servers(group: GroupScores) -> str:
    """Write how many servers of which kind."""
    kind = "never trained on" if group.new else "trained on"
    return f"{group.servers:,} server{'s' * (group.servers != 1)} {kind}"


def _kind(group: GroupScores) -> str:
    """Name windows by what they may prove."""
    if group.validation is None:
        return "windows not trained on (which may have chosen the best epoch)"
    if not group.validation:
        return "held-out windows"
    calibrated = " and calibrated its quantiles" if UNCALIBRATED in group.scores else ""
    return f"validation windows, which chose the best epoch{calibrated} and so flatter it,"
