"""An evaluation as plain data, and as text: aligned tables for the terminal or Markdown."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from report.naive import NAIVE_FORECASTS
from report.scores import Scores

NO_SCORE = "-"  # stands where nothing could be measured
SCORE_HEADER = (
    "forecaster", "metric", "wQL", "MAE", "rMAE_seasonal", "in 80 % interval", "crossing",
)  # fmt: skip
BUCKET_HEADER = ("horizon", "forecaster", *SCORE_HEADER[2:])
KNOWN_SERVERS_NOTE = (
    "of known servers only windows after the training period; on the table trained on, those that "
    "chose the best epoch are among them"
)
SCORE_NOTES = (
    "wQL: twice the pinball loss of quantiles 0.1, 0.5 and 0.9 over the sum of |actual|",
    "MAE: of the median, in the metric's unit; its mean over metrics mixes units",
    "rMAE_seasonal: MAE over that of yesterday's same ticks; below 1 is better than them",
    "in 80 % interval: 80 % is right; more is too wide, less too narrow",
)


@dataclass(frozen=True)
class ForecasterScores:
    """How one forecaster did on the windows of an evaluation."""

    name: str
    rows: tuple[Scores, ...]
    """One row per metric, then their mean."""
    buckets: Mapping[str, tuple[Scores, ...]]
    """The same rows for each horizon bucket, by its name, nearest first."""
    seconds: float
    """Time to forecast all windows."""

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return {
            "name": self.name,
            "rows": [row.to_dict() for row in self.rows],
            "buckets": {
                name: [row.to_dict() for row in rows] for name, rows in self.buckets.items()
            },
            "seconds": self.seconds,
        }

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "ForecasterScores":
        """Build it from what `to_dict` returned."""
        return cls(
            name=plain["name"],
            rows=tuple(Scores.from_dict(row) for row in plain["rows"]),
            buckets={
                name: tuple(Scores.from_dict(row) for row in rows)
                for name, rows in plain["buckets"].items()
            },
            seconds=plain["seconds"],
        )


@dataclass(frozen=True)
class EvaluationReport:
    """What was evaluated, on what, and how every forecaster did."""

    run: str
    """Name of the run or bundle."""
    data: str
    """File name of the table, without its folder: a report names no path of a machine."""
    servers_known: int
    """Servers seen in training."""
    servers_new: int
    """Servers never seen in training."""
    windows: int
    """Windows every forecaster was scored on."""
    not_finite: int
    """Observed target ticks for which the model forecast NaN or infinity."""
    first_origin: str
    """UTC time of the earliest first forecast tick, ISO 8601."""
    last_origin: str
    """UTC time of the latest first forecast tick, ISO 8601."""
    step_seconds: int
    """Seconds between ticks."""
    horizon: int
    """Ticks forecast."""
    forecasters: tuple[ForecasterScores, ...]
    """The model first, then what it is compared with."""
    seconds: float
    """Time the whole evaluation took."""

    def __post_init__(self) -> None:
        """Refuse a path where a name belongs."""
        for field in ("run", "data"):
            value = getattr(self, field)
            if "/" in value or "\\" in value:
                raise ValueError(f"{field} {value!r} is a path; give its last part only")

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; scores that are not finite are None."""
        forecasters = [forecaster.to_dict() for forecaster in self.forecasters]
        return {**asdict(self), "forecasters": forecasters}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "EvaluationReport":
        """Build it from what `to_dict` returned."""
        forecasters = tuple(ForecasterScores.from_dict(each) for each in plain["forecasters"])
        return cls(**{**plain, "forecasters": forecasters})


def score_table(forecasters: Sequence[ForecasterScores], markdown: bool = False) -> str:
    """Write a row of scores per forecaster and metric.

    Args:
        forecasters: in the order to list them.
        markdown: Markdown instead of aligned plain text.
    """
    cells = [
        [forecaster.name, *_score_cells(row)]
        for forecaster in forecasters
        for row in forecaster.rows
    ]
    return format_table(SCORE_HEADER, cells, text_columns=2, markdown=markdown)


def bucket_table(forecasters: Sequence[ForecasterScores], markdown: bool = False) -> str:
    """Write a row of mean scores per stretch of the horizon and forecaster.

    Args:
        forecasters: in the order to list them, all with the same buckets.
        markdown: Markdown instead of aligned plain text.
    """
    names = dict.fromkeys(name for forecaster in forecasters for name in forecaster.buckets)
    cells = [
        [name, forecaster.name, *_score_cells(row)[1:]]
        for name in names
        for forecaster in forecasters
        for row in forecaster.buckets.get(name, ())[-1:]
    ]
    return format_table(BUCKET_HEADER, cells, text_columns=2, markdown=markdown)


def skill(wql: float, naive_wql: float) -> float:
    """Return 1 - wQL / wQL of the naive forecast, NaN where that is zero or unknown."""
    return 1.0 - wql / naive_wql if naive_wql else math.nan


def skill_table(
    forecasters: Sequence[ForecasterScores],
    naives: Sequence[str] = tuple(NAIVE_FORECASTS),
    markdown: bool = False,
) -> str:
    """Write the skill of every forecaster that is not naive itself, a column per naive forecast.

    The mean row compares the mean wQL of both; it is not the mean of the skills above it.

    Args:
        forecasters: the naive ones among them.
        naives: names of the naive forecasts; those not among the forecasters are left out.
        markdown: Markdown instead of aligned plain text.
    """
    references = [forecaster for forecaster in forecasters if forecaster.name in naives]
    cells = []
    for forecaster in forecasters:
        for position, row in enumerate(forecaster.rows if forecaster.name not in naives else ()):
            skills = [skill(row.wql, naive.rows[position].wql) for naive in references]
            cells.append([forecaster.name, row.metric, *map(_signed_percent, skills)])
    header = ["forecaster", "metric", *(f"over {naive.name}" for naive in references)]
    return format_table(header, cells, text_columns=2, markdown=markdown)


def evaluation_markdown(evaluation: Mapping[str, Any]) -> str:
    """Render an evaluation, as `EvaluationReport.to_dict` returns it, in Markdown."""
    return _render(EvaluationReport.from_dict(evaluation), markdown=True)


def evaluation_text(evaluation: Mapping[str, Any]) -> str:
    """Render an evaluation, as `EvaluationReport.to_dict` returns it, for the terminal."""
    return _render(EvaluationReport.from_dict(evaluation), markdown=False)


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


def _render(report: EvaluationReport, markdown: bool) -> str:
    """Write all an evaluation holds."""
    heading, section, item = ("# ", "## ", "- ") if markdown else ("", "", "  ")
    hours = report.horizon * report.step_seconds / 3600
    rows = report.forecasters[0].rows
    ticks = report.windows * report.horizon * (len(rows) - 1)
    times = ", ".join(f"{each.name} {each.seconds:.2f} s" for each in report.forecasters)
    lines = [
        f"{heading}Evaluation of {report.run}",
        "",
        f"{item}data: {report.data}, servers known from training: {report.servers_known}, "
        f"new: {report.servers_new}",
        f"{item}windows: {report.windows}, forecast from {report.first_origin} "
        f"to {report.last_origin}",
        f"{item}{KNOWN_SERVERS_NOTE}",
        f"{item}scored: {rows[-1].observed:,} observed target ticks of {ticks:,}",
        *([f"{item}not finite: {_passed_on(report)}"] if report.not_finite else []),
        f"{item}horizon: {report.horizon} x {report.step_seconds} s, {hours:g} h",
        f"{item}time: {report.seconds:.1f} s in all; {times}",
        "",
        f"{section}Scores",
        "",
        score_table(report.forecasters, markdown),
        "",
        *(f"{item}{note}" for note in SCORE_NOTES),
        "",
        f"{section}Skill (1 - wQL / wQL of the naive forecast; above zero is better than it)",
        "",
        skill_table(report.forecasters, markdown=markdown),
        "",
        f"{section}Along the horizon, mean over metrics",
        "",
        bucket_table(report.forecasters, markdown),
    ]
    return "\n".join(lines) + "\n"


def _passed_on(report: EvaluationReport) -> str:
    """Say what became of forecasts that are no numbers."""
    model = report.forecasters[0].name
    return f"{report.not_finite:,} forecasts of {model} for observed target ticks; no score there"


def _score_cells(row: Scores) -> list[str]:
    """Write a row's metric and scores."""
    return [
        row.metric,
        number_cell(row.wql),
        number_cell(row.mae),
        number_cell(row.rmae_seasonal),
        share_cell(row.coverage),
        _rate(row.crossing),
    ]


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


def _rate(value: float) -> str:
    """Write a share in percent; a small one never reads as zero."""
    if math.isnan(value):
        return NO_SCORE
    return "< 0.01 %" if 0.0 < value < 0.0001 else f"{value * 100:.2f} %"


def _signed_percent(value: float) -> str:
    """Write a skill in percent with its sign; how far below -999 % it is tells no more."""
    if math.isnan(value):
        return NO_SCORE
    return "< -999 %" if value < -9.99 else f"{value * 100:+.1f} %"
