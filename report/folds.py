"""The folds of a cross-validation by rolling origin: where they are cut, and how they scored."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from data.fleet import Fleet
from data.splits import Split, split_fold
from report.batches import MODEL_NAME
from report.evaluate import evaluate, iso_time
from report.naive import FLAT
from report.scores import Scores
from report.text import SCORE_NOTES, format_table, number_cell, share_cell
from tft.forecaster import Forecaster
from tft.schema import FeatureSchema

ALL_METRICS = "all metrics"
SCORES = [field.name for field in fields(Scores) if field.name not in ("metric", "observed")]


@dataclass(frozen=True)
class FoldScores:
    """Scores of one fold, or what became of them over all folds."""

    validation_loss: float
    """Of the epoch that was kept, as trained on."""
    forecasters: Mapping[str, tuple[Scores, ...]]
    """By name, the model first: one row per metric, then their mean."""

    def line(self) -> str:
        """Say in one line how the model did beside the flat forecast, mean over metrics."""
        model, flat = (self.forecasters[name][-1].wql for name in (MODEL_NAME, FLAT))
        return f"weighted quantile loss {number_cell(model)}, of {FLAT} {number_cell(flat)}"

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        rows = {name: [row.to_dict() for row in rows] for name, rows in self.forecasters.items()}
        return {"validation_loss": self.validation_loss, "scores": rows}


@dataclass(frozen=True)
class FoldResult:
    """One fold: the part it was judged on, and its scores."""

    fold: int
    """From 1."""
    validated_from: str
    """UTC time of the first tick of the part it was judged on; it trained on all before."""
    validated_until: str
    """UTC time of the tick after that part."""
    windows: int
    """Windows of the part every forecaster was scored on."""
    not_finite: int
    """Observed target ticks for which the model forecast NaN or infinity."""
    scores: FoldScores

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        names = ("fold", "validated_from", "validated_until", "windows", "not_finite")
        return {name: getattr(self, name) for name in names} | self.scores.to_dict()


@dataclass(frozen=True)
class CrossValidation:
    """Every fold of a cross-validation."""

    data: str
    """File name of the table, without its folder."""
    folds: tuple[FoldResult, ...]
    """At least two."""

    @property
    def mean(self) -> FoldScores:
        """Every score's mean over folds; NaN where a fold does not have the score."""
        return self._over_folds(np.mean)

    @property
    def spread(self) -> FoldScores:
        """Every score's sample standard deviation over folds, with n - 1."""
        return self._over_folds(lambda values: np.std(values, ddof=1))

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON can hold; scores that are not finite are None."""
        return {
            "data": self.data,
            "folds": [fold.to_dict() for fold in self.folds],
            "mean": self.mean.to_dict(),
            "spread": self.spread.to_dict(),
            "spread_is": "sample standard deviation over folds (n - 1)",
        }

    def _over_folds(self, statistic: Callable[[list[float]], Any]) -> FoldScores:
        scores = [fold.scores for fold in self.folds]
        forecasters = {
            name: tuple(
                _combine(rows, statistic)
                for rows in zip(*(each.forecasters[name] for each in scores), strict=True)
            )
            for name in scores[0].forecasters
        }
        loss = float(statistic([each.validation_loss for each in scores]))
        return FoldScores(loss, forecasters)


def fold_splits(
    fleet: Fleet, schema: FeatureSchema, folds: int, held_out: tuple[str, ...] = ()
) -> tuple[Split, ...]:
    """Cut the time span for every fold, so that none turns out too short after hours of others.

    Args:
        fleet: series.
        schema: lengths.
        folds: their number.
        held_out: servers that validate beside the others but are not trained on.

    Raises:
        ValueError: a fold has no window to train on or to validate on, or a server held out is not
            there.
    """
    span = fleet.end_tick - int(fleet.first_tick.min())
    need = schema.min_context_length + schema.prediction_horizon
    part, most = span // (folds + 1), span // need - 1
    if part < need:
        fewer = f"ask for --folds {most} or fewer, " if most >= 2 else ""
        raise ValueError(
            f"{folds} folds cut the table's {span:,} ticks into {folds + 1} parts of {part:,}, but "
            f"a part needs min_context_length {schema.min_context_length} + prediction_horizon "
            f"{schema.prediction_horizon} = {need} ticks; {fewer}bring more data, or lower these"
        )
    splits = []
    for number in range(1, folds + 1):
        try:
            splits.append(split_fold(fleet, schema, number, folds, held_out))
        except ValueError as error:
            raise ValueError(f"fold {number} of {folds}: {error}") from error
    return tuple(splits)


def judge_fold(
    number: int,
    split: Split,
    forecaster: Forecaster,
    fleet: Fleet,
    data_name: str,
    validation_loss: float,
    windows: int | None,
) -> FoldResult:
    """Score a fold's forecaster beside naive forecasts, on its validation part only.

    Args:
        number: of the fold, from 1.
        split: the fold's.
        forecaster: trained on the split, in evaluation mode.
        fleet: read with the forecaster's schema.
        data_name: of the table, without a folder.
        validation_loss: of the forecaster's epoch.
        windows: most windows, evenly spaced; None: all of them.
    """
    report = evaluate(forecaster, fleet, f"fold-{number}", data_name, windows, end=split.end)
    return FoldResult(
        fold=number,
        validated_from=iso_time(split.cutoff, forecaster.schema),
        validated_until=iso_time(split.end, forecaster.schema),
        windows=report.windows,
        not_finite=report.not_finite,
        scores=FoldScores(validation_loss, {each.name: each.rows for each in report.forecasters}),
    )


def folds_markdown(result: CrossValidation) -> str:
    """Render a cross-validation in Markdown."""
    return _render(result, markdown=True)


def folds_text(result: CrossValidation) -> str:
    """Render a cross-validation for the terminal."""
    return _render(result, markdown=False)


def fold_table(result: CrossValidation, markdown: bool = False) -> str:
    """Write a row per fold: when it validated, on how many windows, and its validation loss."""
    header = ("fold", "validated from", "until", "windows", "validation loss")
    cells = [
        [
            str(fold.fold),
            fold.validated_from,
            fold.validated_until,
            f"{fold.windows:,}",
            number_cell(fold.scores.validation_loss),
        ]
        for fold in result.folds
    ]
    for name, over_folds in (("mean", result.mean), ("spread", result.spread)):
        cells.append([name, "", "", "", number_cell(over_folds.validation_loss)])
    return format_table(header, cells, text_columns=3, markdown=markdown)


def fold_score_table(result: CrossValidation, markdown: bool = False) -> str:
    """Write a row of scores per metric and fold, the model beside the flat forecast.

    Metrics go down, not across, so that many of them and long names still fit a terminal.
    """
    header = ("metric", "fold", f"wQL {MODEL_NAME}", f"wQL {FLAT}", f"{MODEL_NAME} in 80 %")
    groups = [(str(fold.fold), fold.scores) for fold in result.folds]
    groups += [("mean", result.mean), ("spread", result.spread)]
    metrics = [row.metric for row in result.folds[0].scores.forecasters[MODEL_NAME]]
    cells = []
    for position, metric in enumerate([*metrics[:-1], ALL_METRICS]):
        for name, scores in groups:
            model, flat = (scores.forecasters[each][position] for each in (MODEL_NAME, FLAT))
            shown = number_cell(model.wql), number_cell(flat.wql), share_cell(model.coverage)
            cells.append(["" if name != groups[0][0] else metric, name, *shown])
    return format_table(header, cells, text_columns=2, markdown=markdown)


def _combine(rows: Sequence[Scores], statistic: Callable[[list[float]], Any]) -> Scores:
    """Apply a statistic to one row's scores in all folds."""
    values: dict[str, Any] = {
        name: float(statistic([getattr(row, name) for row in rows])) for name in SCORES
    }
    return Scores(metric=rows[0].metric, observed=sum(row.observed for row in rows), **values)


def _render(result: CrossValidation, markdown: bool) -> str:
    """Write all a cross-validation holds."""
    heading, section, item = ("# ", "## ", "- ") if markdown else ("", "", "  ")
    not_finite = sum(fold.not_finite for fold in result.folds)
    lines = [
        f"{heading}Cross-validation of {len(result.folds)} folds on {result.data}",
        "",
        f"{item}rolling origin: a fold trains on all before the part it is validated and judged on",
        f"{item}that part also chose the fold's best epoch, which flatters {MODEL_NAME} a little",
        f"{item}spread: sample standard deviation over folds (n - 1)",
        *([f"{item}not finite: {not_finite:,} forecasts of {MODEL_NAME}"] if not_finite else []),
        "",
        f"{section}Folds",
        "",
        fold_table(result, markdown),
        "",
        f"{section}Scores",
        "",
        fold_score_table(result, markdown),
        "",
        f"{item}{SCORE_NOTES[0]}",
        f"{item}{ALL_METRICS}: the mean over metrics",
        f"{item}{MODEL_NAME} in 80 %: share of what came in its 80 % interval; 80 % is right",
        f"{item}{FLAT}: the flat forecast, the quantiles of the last day held over the horizon",
    ]
    return "\n".join(lines) + "\n"
