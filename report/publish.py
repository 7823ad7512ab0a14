"""Evaluate a run, derive what may be claimed, and write it down: a page, a picture and JSON."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

from data.fleet import Fleet
from report.claims import derive_claims
from report.evaluate import evaluate, example_figure, measure_latency
from report.groups import cold_start_groups
from report.page import evaluation_page
from report.plots import save_figure
from report.run_facts import read_run_facts
from report.text import evaluation_text
from report.watch import watch_over
from tft.files import write_atomically
from tft.forecaster import Forecaster

JSON, PICTURE, PAGE = "evaluation.json", "forecasts.png", "report.html"
MAIN_SHARE = 0.8  # of the time, roughly: the rest scores cold starts and draws


class Published(NamedTuple):
    """What is left of an evaluation."""

    text: str  # for the terminal
    files: tuple[Path, ...]  # written, the page last


def publish(
    forecaster: Forecaster,
    fleet: Fleet,
    run: Path,
    table: str,
    own_table: bool,
    folder: Path,
    windows: int | None = 2048,
    progress: Callable[[float], None] = lambda fraction: None,
    most_origins: int = 8192,
) -> Published:
    """Evaluate and write everything.

    Args:
        forecaster: in evaluation mode.
        fleet: read with the forecaster's schema.
        run: the run directory, or a model folder alone.
        table: file name of the table, without its folder.
        own_table: whether it is the table the run was trained on.
        folder: where to write; made if it is not there.
        windows: most windows, evenly spaced; None: all of them.
        progress: called with the fraction done.
        most_origins: about so many at most are replayed to judge alerts.

    Raises:
        ValueError: there is nothing to evaluate on, or a file of the run is damaged.
    """
    facts, name, schema = read_run_facts(run), run.resolve().name, forecaster.schema
    validation = None
    if facts is not None:
        trained = None if own_table else forecaster.facts.servers
        validation = facts.validation_part(schema.step_seconds, trained)
    report = evaluate(
        forecaster, fleet, name, table, windows,
        lambda fraction: progress(MAIN_SHARE * fraction), validation=validation,
    )  # fmt: skip
    report = replace(
        report,
        groups=(*report.groups, *cold_start_groups(forecaster, fleet, validation)),
        latency=measure_latency(forecaster, fleet, report),
    )
    progress(0.5 * (MAIN_SHARE + 1.0))
    claims = derive_claims(report, facts)
    watch = watch_over(forecaster, fleet, most_origins)
    examples = example_figure(forecaster, fleet, f"Forecasts of {name}")
    html = evaluation_page(report, claims, facts, examples, watch.sections)
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(folder / each for each in (JSON, PICTURE, PAGE))
    plain = report.to_dict() | {"claims": asdict(claims)} | watch.plain
    write_atomically(files[0], (json.dumps(plain, indent=1) + "\n").encode())
    save_figure(examples, files[1])
    write_atomically(files[2], html.encode())
    progress(1.0)
    return Published(evaluation_text(report, claims, watch.lines), files)
