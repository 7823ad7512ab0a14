"""An evaluation as one HTML page: what came out, what may be claimed, and everything behind it."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from report.batches import UNCALIBRATED
from report.claims import LOSS_BANDS, WORST_BAND, Claims, loss_band
from report.evaluation_plots import convergence_figure, reliability_figure
from report.html import Section, escape, items, page, paragraph, picture, table
from report.naive import FLAT
from report.results import EvaluationReport, ServerScores
from report.run_facts import RunFacts
from report.scores import Scores, skill
from report.servers import worst_by_loss, worst_by_skill
from report.text import (
    NAIVE_HEADERS,
    NAIVE_LABELS,
    NO_SCORE,
    SCORE_NOTES,
    group_cells,
    number_cell,
    share_cell,
    skill_cell,
)

WORST_SERVERS = 10
WHOLE = "whole"


def evaluation_page(
    report: EvaluationReport,
    claims: Claims,
    run: RunFacts | None,
    examples: Figure,
    extra: Sequence[Section] = (),
) -> str:
    """Write the page.

    Args:
        report: of the evaluation.
        claims: derived from it.
        run: what the run tells of its training; without it the page has no part on that.
        examples: forecasts beside what came.
        extra: sections of other judgements, such as early warnings, after the scores.
    """
    sections = [
        _summary(report),
        _claims(claims),
        _horizon(report),
        _calibration(report),
        _groups(report),
        _servers(report),
        _examples(examples),
        *extra,
        *([] if run is None else [_training(run)]),
        *([] if report.latency is None else [_latency(report)]),
        _definitions(report),
    ]
    links = " · ".join(
        f'<a href="#{escape(each.anchor)}">{escape(each.title)}</a>'
        for each in sections
        if each.anchor
    )
    lead = _lead(report, claims) + f'<p class="soft">{links}</p>'
    return page(f"Evaluation of {report.run}", sections, lead)


def _lead(report: EvaluationReport, claims: Claims) -> str:
    """Say what was evaluated, and how mature it is."""
    hours = report.horizon * report.step_seconds / 3600
    text = (
        f"{report.data}: {report.windows:,} forecasts of {hours:g} h each, made from "
        f"{report.first_origin} to {report.last_origin}, of {report.servers_known:,} servers "
        f"trained on and {report.servers_new:,} others. "
    )
    return paragraph(text) + paragraph(f"Maturity: {claims.maturity}.")


def _summary(report: EvaluationReport) -> Section:
    """Compare all forecasters by metric."""
    header = ["metric", "this model", *NAIVE_LABELS.values(), "skill over flat", "in 80 %"]
    losses = {each.name: [row.wql for row in each.rows] for each in report.forecasters}
    rows = [
        [
            row.metric,
            number_cell(row.wql),
            *(number_cell(losses[name][position]) for name in NAIVE_LABELS),
            skill_cell(skill(row.wql, losses[FLAT][position])),
            share_cell(row.coverage),
        ]
        for position, row in enumerate(report.model.rows)
    ]
    body = paragraph("Weighted quantile loss: lower is better.", "soft")
    body += table(header, rows, strong=[len(rows) - 1])
    if report.not_finite:
        body += items(
            [
                f"{report.not_finite:,} forecasts of observed ticks are no numbers; where the "
                "model passed on one, it has no score"
            ],
            "no",
        )
    return Section("At a glance", body, "glance")


def _claims(claims: Claims) -> Section:
    """List what may be said and what may not."""
    facts, supported, unsupported = (
        [line.replace(" %", "\N{NO-BREAK SPACE}%") for line in lines]
        for lines in (claims.facts, claims.supported, claims.unsupported)
    )
    body = "<h3>What is known</h3>" + items(facts)
    body += "<h3>Supported</h3>"
    body += items(supported, "yes") or paragraph("Nothing yet.")
    body += "<h3>Not supported, and why</h3>" + items(unsupported, "no")
    return Section("What may be claimed", body, "claims")


def _horizon(report: EvaluationReport) -> Section:
    """Score every metric along the horizon."""
    parts = {WHOLE: {each.name: each.rows for each in report.forecasters}}
    for bucket in report.model.buckets:
        parts[bucket] = {each.name: each.buckets[bucket] for each in report.forecasters}
    header = [
        "metric", "horizon", "wQL", "MAE", "RMSE",
        *(f"over {name}" for name in NAIVE_HEADERS.values()),
        "in 80 %", "width", "ticks",
    ]  # fmt: skip
    cells: list[list[str]] = []
    strong: list[int] = []
    for position, metric in enumerate(report.model.rows):
        for part, rows in parts.items():
            if part == WHOLE:
                strong.append(len(cells))
            row = rows[report.model.name][position]
            skills = [skill(row.wql, rows[naive][position].wql) for naive in NAIVE_HEADERS]
            one_unit = position < len(report.model.rows) - 1
            cells.append(
                [
                    metric.metric if part == WHOLE else "",
                    part,
                    number_cell(row.wql),
                    *(_in_unit(row, one_unit)[:2]),
                    *map(skill_cell, skills),
                    share_cell(row.coverage),
                    _in_unit(row, one_unit)[2],
                    f"{row.observed:,}",
                ]
            )
    note = (
        "Over flat, yesterday, last: the skill, 1 - wQL / wQL of that naive forecast; above "
        "zero is better than it. Width: of the 80 % interval. The mean compares mean losses; what "
        "has a unit is not averaged over metrics."
    )
    body = paragraph(note, "soft") + table(header, cells, text_columns=2, strong=strong)
    return Section("Along the horizon", body, "horizon")


def _in_unit(row: Scores, one_unit: bool) -> list[str]:
    """Write MAE, RMSE and width; nothing where they mix units."""
    values = (row.mae, row.rmse, row.width)
    return [number_cell(value) if one_unit else NO_SCORE for value in values]


def _calibration(report: EvaluationReport) -> Section:
    """Show whether quantiles and intervals hold what they say."""
    pairs = report.calibration[0].intervals
    names = [f"{100 * (each.upper - each.lower):.0f} %" for each in pairs]
    header = ["metric", *(cell for name in names for cell in (f"in {name}", "width"))]
    close = any(each.within_10_points is not None for each in report.calibration)
    cells = []
    for each in report.calibration:
        of_metric = [
            cell
            for interval in each.intervals
            for cell in (share_cell(interval.coverage), number_cell(interval.width))
        ]
        near = NO_SCORE if each.within_10_points is None else share_cell(each.within_10_points)
        cells.append([each.metric, *of_metric, *([near] if close else [])])
    caption = (
        "Share of actuals at or below each forecast quantile, over its level. On the dashed line "
        "is right; above it the quantile is too high. Where many actuals equal a bound, as an idle "
        "disk's zeros do, low quantiles that equal it hold them all and lie above the line. Below: "
        "share of actuals in each central interval, its mean width in the metric's unit, and, of "
        "percentages, the share within 10 points of the median."
    )
    body = picture(reliability_figure(report.calibration), "reliability curves", caption)
    body += table([*header, *(["within 10 points"] if close else [])], cells)
    return Section("Calibration", body + _before_calibration(report), "calibration")


def _before_calibration(report: EvaluationReport) -> str:
    """Show what calibrating the quantiles changed, if it was done: on windows of each kind."""
    rows = [
        [
            group.name if position == 0 else "",
            row.metric,
            *map(share_cell, (before.coverage, row.coverage)),
            *map(number_cell, (before.wql, row.wql)),
        ]
        for group in report.groups
        if UNCALIBRATED in group.scores
        for position, (before, row) in enumerate(
            zip(group.scores[UNCALIBRATED], group.scores[report.model.name], strict=True)
        )
    ]
    if not rows:
        return ""
    note = (
        "The gaps between quantiles were fitted to the validation windows after training. There it "
        "must look right; what it is worth shows on the others."
    )
    header = ["windows of", "metric", "in 80 %, before", "after", "wQL, before", "after"]
    return f"<h3>Before and after calibration</h3>{paragraph(note, 'soft')}" + table(
        header, rows, text_columns=2
    )


def _groups(report: EvaluationReport) -> Section:
    """Score servers trained on, others and cold starts apart."""
    header = ["windows of", "servers", "windows", "wQL", "flat", "skill over flat", "in 80 %"]
    notes = [
        "Known servers were trained on, on ticks before those forecast here; new ones never were.",
    ]
    if any(group.validation is not None for group in report.groups):
        notes.append(
            "Validation windows forecast ticks that chose the best epoch, which flatters the "
            "model; held-out windows had no part in training."
        )
    if any(group.history_hours is not None for group in report.groups):
        notes.append(
            "A length of history: windows of new servers, for model and naive forecasts cut as if "
            "the server had begun so long before; the lengths share their windows. A cold start "
            "is shorter than any history trained on."
        )
    by_metric = [
        [
            group.name if position == 0 else "",
            row.metric,
            number_cell(row.wql),
            *(skill_cell(skill(row.wql, group.scores[n][position].wql)) for n in NAIVE_HEADERS),
            share_cell(row.coverage),
        ]
        for group in report.groups
        for position, row in enumerate(group.scores[report.model.name][:-1])
    ]
    columns = [f"over {name}" for name in NAIVE_HEADERS.values()]
    body = table(header, [group_cells(group) for group in report.groups]) + items(notes, "soft")
    body += table(["windows of", "metric", "wQL", *columns, "in 80 %"], by_metric, text_columns=2)
    return Section("Known, new and cold-start servers", body, "groups")


def _servers(report: EvaluationReport) -> Section:
    """List the servers forecast worst."""
    header = ["server", "", "worst metric", "wQL", "flat", "skill over flat", "windows", "ticks"]

    def cells(server: ServerScores) -> list[str]:
        return [
            server.server,
            "new" if server.new else "",
            server.worst_metric,
            number_cell(server.wql),
            number_cell(server.flat_wql),
            skill_cell(skill(server.wql, server.flat_wql)),
            f"{server.windows:,}",
            f"{server.observed:,}",
        ]

    behind = sum(each.wql > each.flat_wql for each in report.servers)
    body = paragraph(
        f"{behind:,} of {len(report.servers):,} servers scored have a higher loss than with the "
        "flat forecast. A server's loss is the mean over its metrics; of a nearly idle one it is "
        "large whatever the forecast, as it is relative to what came. Few windows tell little."
    )
    for title, chosen in (
        ("Behind the flat forecast, or least ahead of it", worst_by_skill),
        ("Highest loss", worst_by_loss),
    ):
        body += f"<h3>{escape(title)}</h3>"
        worst = chosen(report.servers, WORST_SERVERS)
        body += table(header, [cells(each) for each in worst], text_columns=3)
    return Section("Worst servers", body, "servers")


def _examples(figure: Figure) -> Section:
    """Show a few forecasts."""
    caption = (
        "The latest forecasts whose future is in the table, of servers evenly spread over its "
        "names: not the best ones."
    )
    body = picture(figure, "forecasts of a few servers with their intervals, and actuals", caption)
    return Section("Examples", body, "examples")


def _training(run: RunFacts) -> Section:
    """Show how training went and what it took."""
    body = ""
    if run.course:
        body += picture(
            convergence_figure(run.course, run.best_epoch, run.first_loss),
            "training and validation loss and learning rate, epoch by epoch",
            f"Loss: {run.loss_unit}.",
        )
    seconds = sum(epoch.seconds for epoch in run.course)
    speeds = [epoch.windows_per_second for epoch in run.course]
    facts = [
        ("time, reading included", f"{60 * run.hours:.1f} min"),
        ("time of epochs", f"{seconds / 60:.1f} min" if run.course else NO_SCORE),
        ("windows trained a second", f"{sum(speeds) / len(speeds):.0f}" if speeds else NO_SCORE),
        ("peak memory of the process", f"{run.memory_mb:,.0f} MB"),
        *([("peak memory on the GPU", f"{run.gpu_memory_mb:,.0f} MB")] * (run.gpu_memory_mb > 0)),
        ("parameters", f"{run.parameters:,}"),
        ("precision", run.precision),
        ("seed", str(run.seed)),
        ("validation loss of what was kept", number_cell(run.best_loss)),
        ("band of that loss", loss_band(run.best_loss)),
    ]
    bands = ", ".join(f"{name} under {limit:.2f}" for limit, name in LOSS_BANDS)
    note = (
        f"Bands of the validation loss: {bands}, else {WORST_BAND}. They are a rule of thumb, in "
        f"normalised units ({run.loss_unit}). They hold neither for the weighted quantile losses "
        "above nor between fleets; skill over naive forecasts says more."
    )
    body += table(["training", ""], [list(each) for each in facts]) + paragraph(note, "soft")
    return Section("Training: convergence, time and memory", body, "training")


def _latency(report: EvaluationReport) -> Section:
    """Show how fast forecasts were made here."""
    speed = report.latency
    assert speed is not None
    rows = [
        [f"windows a second, batches of {speed.batch_size}", f"{speed.windows_per_second:,.0f}"],
        ["one window, median", f"{speed.one_window_ms:.1f} ms"],
        ["device", speed.device],
        ["CPU threads", str(speed.threads)],
    ]
    note = (
        "Measured in this evaluation, on windows gathered already: all metrics and the whole "
        "horizon of a server are one window."
    )
    return Section("Inference", table(["", ""], rows) + paragraph(note, "soft"), "inference")


def _definitions(report: EvaluationReport) -> Section:
    """Define every figure."""
    hours = report.horizon * report.step_seconds / 3600
    rows = report.model.rows
    ticks = report.windows * report.horizon * (len(rows) - 1)
    crossing = [row.crossing for row in rows[:-1] if not math.isnan(row.crossing)]
    lines = [
        *SCORE_NOTES,
        f"horizon: {report.horizon} ticks of {report.step_seconds} s, {hours:g} h",
        f"scored: {rows[-1].observed:,} target ticks of {ticks:,}; the others were not observed, "
        "or no naive forecast could know anything",
        f"quantiles in the wrong order: {share_cell(max(crossing, default=0.0))} or less by metric",
        f"{NAIVE_LABELS[FLAT]}: the last 24 hours' own quantiles, held over the horizon",
        "yesterday's same hours, the last value: with intervals from the last day's own changes",
        f"evaluated in {report.seconds:.1f} s",
    ]
    return Section("How figures are defined", items(lines), "definitions")
