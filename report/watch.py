"""What an operator is told beside scores: would alerts have come in time, have the data changed?"""

from typing import Any, NamedTuple

from data.fleet import Fleet
from report.drift import drift, drift_lines
from report.early_warning.backtest import backtest
from report.early_warning.page import warning_section
from report.early_warning.results import warning_lines
from report.evaluate import held_out_windows
from report.html import Section, items, paragraph
from tft.forecaster import Forecaster


class Watch(NamedTuple):
    """The same for the page, the terminal and a file."""

    sections: tuple[Section, ...]
    lines: tuple[str, ...]
    plain: dict[str, Any]  # what JSON can hold


def watch_over(forecaster: Forecaster, fleet: Fleet, most_origins: int) -> Watch:
    """Replay alerts over what was held out, and compare it with what was trained on.

    Args:
        forecaster: in evaluation mode.
        fleet: read with the forecaster's schema.
        most_origins: about so many at most are replayed.
    """
    drifts = drift(forecaster, fleet, forecaster.facts.end_tick)
    told = drift_lines(drifts)
    calm = paragraph("No metric has left the range or the level it was trained on.")
    changed = Section("Have the data changed since training?", items(told) or calm, "drift")
    index = held_out_windows(fleet, forecaster).windows
    try:
        alerts = backtest(forecaster, fleet, index, most_origins=most_origins)
    except ValueError as error:  # so little is held out that no alert can be judged
        return Watch((changed,), (f"early warning: {error}", *told), {"drift": _plain(drifts)})
    return Watch(
        (warning_section(alerts), changed),
        (*warning_lines(alerts), *told),
        {"early_warning": alerts.to_dict(), "drift": _plain(drifts)},
    )


def _plain(drifts: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [each.to_dict() for each in drifts]
