"""An evaluation for the terminal, and how figures are written everywhere."""

import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from report.batches import UNCALIBRATED
from report.naive import FLAT
from report.results import EvaluationReport, GroupScores
from report.scores import skill

if TYPE_CHECKING:  # it writes figures as here
    from report.claims import Claims

NO_SCORE = "-"  # stands where nothing could be measured
SCORE_NOTES = (
    "wQL: twice the pinball loss of quantiles 0.1, 0.5 and 0.9 over the sum of |actual|",
    "MAE, RMSE: of the median, in the metric's unit",
    "in 80 %: share of what came inside the 80 % interval; 80 % is right",
)
NAIVE_LABELS = {
    FLAT: "the flat forecast",
    "seasonal_naive": "yesterday's same hours",
    "last_value": "the last value",
}
NAIVE_HEADERS = {FLAT: "flat", "seasonal_naive": "yesterday", "last_value": "last"}
MOST_METRICS = 8  # more have room on the page only
NAME_WIDTH = 28
TERMINAL_WIDTH = 100


def evaluation_text(report: EvaluationReport, claims: "Claims", lines: Sequence[str] = ()) -> str:
    """Write what matters of an evaluation, short enough for a terminal.

    Args:
        report: of the evaluation.
        claims: derived from it; of each kind the first is shown.
        lines: what others have to say, such as warnings, before the claims.
    """
    servers = f"{report.servers_known:,} known and {report.servers_new:,} new servers"
    head = f"{report.run} on {report.data}: {report.windows:,} windows of {servers}"
    supported = claims.supported[:1]
    parts = [
        shorten(head, TERMINAL_WIDTH),
        "",
        metric_table(report),
        *(["", group_table(report.groups)] if len(report.groups) > 1 else []),
        *_calibration_line(report),
        *(["", *lines] if lines else []),
        "",
        *_wrapped("maturity", claims.maturity),
        *(line for claim in supported for line in _wrapped("claim", claim)),
        *(line for claim in claims.unsupported[:1] for line in _wrapped("do not claim", claim)),
    ]
    return "\n".join(parts)


def _calibration_line(report: EvaluationReport) -> Iterator[str]:
    """Say what calibrating the quantiles changed, if it was done."""
    before = next((each for each in report.naives if each.name == UNCALIBRATED), None)
    if before is not None:
        pairs = zip(before.rows[:-1], report.model.rows[:-1], strict=True)
        held = [
            f"{old.metric} {share_cell(old.coverage)} to {share_cell(new.coverage)}"
            for old, new in pairs
        ]
        yield ""
        yield from _wrapped("calibration", f"moved what the 80 % interval held: {', '.join(held)}")


def metric_table(report: EvaluationReport) -> str:
    """Write a row per metric: weighted quantile loss of every forecaster, skill and coverage."""
    model, flat = report.model, next(each for each in report.naives if each.name == FLAT)
    rows, shown = model.rows[:-1], min(len(model.rows) - 1, MOST_METRICS)
    cells = []
    for position in [*range(shown), len(rows)]:
        row = model.rows[position]
        cells.append(
            [
                shorten(row.metric, NAME_WIDTH),
                number_cell(row.wql),
                *(number_cell(_row(report, name, position)) for name in NAIVE_HEADERS),
                skill_cell(skill(row.wql, flat.rows[position].wql)),
                share_cell(row.coverage),
            ]
        )
    header = ["weighted quantile loss", model.name, *NAIVE_HEADERS.values(), "skill over flat"]
    table = format_table([*header, "in 80 %"], cells, text_columns=1)
    hidden = len(rows) - shown
    return table + (f"\n({hidden} more metrics on the page, in the mean too)" if hidden else "")


def group_table(groups: Sequence[GroupScores]) -> str:
    """Write a row per kind of windows, mean over metrics."""
    header = ["windows of", "servers", "windows", "wQL", "flat", "over flat", "in 80 %"]
    return format_table(header, [group_cells(group) for group in groups], text_columns=1)


def group_cells(group: GroupScores) -> list[str]:
    """Write one kind of windows: its name, counts and mean scores beside the flat forecast's."""
    model, flat = next(iter(group.scores.values()))[-1], group.scores[FLAT][-1]
    return [
        f"{group.name}{' (cold start)' if group.cold_start else ''}",
        f"{group.servers:,}",
        f"{group.windows:,}",
        number_cell(model.wql),
        number_cell(flat.wql),
        skill_cell(skill(model.wql, flat.wql)),
        share_cell(model.coverage),
    ]


def format_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    text_columns: int,
    markdown: bool = False,
) -> str:
    """Align cells in columns.

    Args:
        header: a name per column.
        rows: as many cells each.
        text_columns: so many columns from the left are aligned left, the others right.
        markdown: a Markdown table instead of plain text.

    Returns:
        Lines without a newline at the end.
    """
    lines = [list(header), *(list(row) for row in rows)]
    if markdown:
        lines = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]
    padded = [
        [
            cell.ljust(width) if column < text_columns else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        for line in lines
    ]
    if not markdown:
        rule = ["-" * width for width in widths]
        return "\n".join("  ".join(line).rstrip() for line in [padded[0], rule, *padded[1:]])
    rule = [
        "-" * width if column < text_columns else "-" * (width - 1) + ":"
        for column, width in enumerate(widths)
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])


def shorten(name: str, length: int) -> str:
    """Cut the middle out of a text longer than `length`."""
    if len(name) <= length:
        return name
    half = (length - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def _row(report: EvaluationReport, name: str, position: int) -> float:
    """Return a forecaster's loss in one row."""
    return next(each for each in report.forecasters if each.name == name).rows[position].wql


def _wrapped(label: str, text: str) -> Iterator[str]:
    """Write a claim behind its label, at most two lines long."""
    yield from textwrap.wrap(
        text, TERMINAL_WIDTH, initial_indent=f"{label + ':':14}", subsequent_indent=" " * 14,
        max_lines=2, placeholder=" …",
    )  # fmt: skip


def number_cell(value: float) -> str:
    """Write a score with four decimals, a big one with fewer, beyond that three digits."""
    if math.isnan(value):
        return NO_SCORE
    if abs(value) >= 1e6 or 0.0 < abs(value) < 1e-3:
        return f"{value:.3g}"
    decimals = 4 if abs(value) < 10 else 2 if abs(value) < 1000 else 0
    return f"{value:,.{decimals}f}"


def share_cell(value: float) -> str:
    """Write a share in percent with one decimal."""
    return NO_SCORE if math.isnan(value) else f"{value:.1%}".replace("%", " %")


def skill_cell(value: float) -> str:
    """Write a skill in percent with its sign; how far below -999 % it is tells no more."""
    if math.isnan(value):
        return NO_SCORE
    percent = round(100 * value, 1) + 0.0  # no -0.0
    return "< -999 %" if value < -9.99 else f"{percent:+.1f} %"
