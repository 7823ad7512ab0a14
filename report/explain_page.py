"""Explanations as files: a page for the fleet, one per server, and all their numbers as JSON."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from data.fleet import Fleet
from data.splits import spread_evenly
from report.explain import HIGH, LOW, explain
from report.explain_plots import Bar, attention_map, lag_curve, per_cent, spread_bars
from report.explanation import Explanation, Reading, Variable
from report.html import Section, escape, items, page, paragraph, picture, quote, table
from report.plots import VERMILION
from tft.files import write_atomically
from tft.forecaster import Forecaster

SERVERS = "servers"  # the folder of servers' pages
MOST_PAGES = 100  # of servers; any one has its own with `--server`
SAFE_LENGTH = 60  # of a file's name, well below what any file system takes
READING_SHARE = 0.6  # of the time, roughly: the rest draws
PAIR = '<div style="display:flex;flex-wrap:wrap;column-gap:1rem">'  # beside each other, or, where
HALF = '<div style="flex:1 1 24rem;min-width:0">'  # there is no room, one above the other
HOW_TO_READ = (
    "Loss growth is measured. In every window one variable's values are replaced by those it has "
    "in another window drawn at random from the fleet, everything else stays, and the quantile "
    "loss is taken again: 10 % means the forecasts got 10 % worse without it.",
    "Selection weights are how the network weighs its inputs against each other inside a group; "
    "each group's sum to 100 %. A variable may be weighed heavily and hardly matter: where the two "
    "disagree, believe the growth.",
    "Neither speaks of causes. They say what this forecaster uses, not what makes a metric move.",
    "What also stands elsewhere is missed less than it is worth: a metric's past, its values a day "
    "before and its level tell much of the same, and a shuffled one leaves the others. The rows "
    "of whole groups shuffle all of a group together.",
    "A metric's variable 'before' holds its values at the same hours of a week, what followed the "
    "moments of the month that were most like now, and its quantiles, its spread and its largest "
    "value of the last day, 6 hours and hour.",
    "One use of the past is in none of these figures: the network reads and forecasts every metric "
    "in standard deviations around the mean of the window's own history, and that scale is never "
    "shuffled.",
    "History is read in patches of a few ticks (`patch_length`): selection weights of a patch are "
    "those of each of its ticks, and the attention it gets is divided evenly among those that hold "
    "a value.",
    "Missing ticks, and those before a server began, count in no average.",
)


def write_explanation(
    forecaster: Forecaster,
    fleet: Fleet,
    run_name: str,
    data_name: str,
    folder: Path,
    server: str | None = None,
    windows: int | None = 256,
    progress: Callable[[float], None] = lambda fraction: None,
) -> list[Path]:
    """Explain a forecaster and write pages and JSON.

    The fleet's are `index.html`, `explanation.json` and a page per server in `servers/`; those of
    one server are named after it, and leave the fleet's alone.

    Args:
        forecaster: in evaluation mode.
        fleet: read with the forecaster's schema.
        run_name: for the pages.
        data_name: for the pages, without a folder.
        folder: where to write; made if it is not there.
        server: only this one.
        windows: most windows, evenly spaced; None: all of them.
        progress: called with the fraction done.

    Returns:
        The JSON file, then the page to open.

    Raises:
        ValueError: there is no window to look at, or no such server.
    """
    explanation = explain(
        forecaster, fleet, run_name, data_name, server, windows,
        lambda fraction: progress(READING_SHARE * fraction),
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    name = "" if server is None else file_name(fleet, server)
    numbers, index = folder / f"{name or 'explanation'}.json", folder / f"{name or 'index'}.html"
    write_atomically(numbers, (json.dumps(explanation.to_dict(), indent=1) + "\n").encode())
    if server is not None:
        write_atomically(index, server_page(explanation, explanation.whole).encode())
        return [numbers, index]
    (folder / SERVERS).mkdir(exist_ok=True)
    drawn = [explanation.servers[i] for i in spread_evenly(len(explanation.servers), MOST_PAGES)]
    links = {}
    for number, reading in enumerate(drawn, 1):
        assert reading.server is not None
        links[reading.server] = f"{SERVERS}/{file_name(fleet, reading.server)}.html"
        html = server_page(explanation, reading, back="../index.html")
        write_atomically(folder / links[reading.server], html.encode())
        progress(READING_SHARE + (1 - READING_SHARE) * number / len(drawn))
    write_atomically(index, index_page(explanation, links).encode())
    return [numbers, index]


def file_name(fleet: Fleet, server: str) -> str:
    """Return a name for a server's files that any file system takes, different for each server."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", server).strip("-")[:SAFE_LENGTH]
    return f"{fleet.servers.index(server):04d}-{safe or 'server'}"


def index_page(explanation: Explanation, links: dict[str, str]) -> str:
    """Return the fleet's page; `links` leads from a server's name to its page."""
    schema, whole = explanation.schema, explanation.whole
    sections = [
        Section("How to read this", items(HOW_TO_READ)),
        *_variable_sections(explanation, whole),
        Section("Where it looks", _attention(explanation, whole)),
        Section(
            "Which step looks where",
            picture(
                attention_map(explanation.by_step, schema.context_length, schema.step_seconds),
                "Attention of each horizon step to each tick of context and horizon",
                "A row is a step of the forecast; left of the line is history, right of it are the "
                "horizon's own steps, which hold the calendar, the days before and what the "
                "past was like. A look at the same time of day shows as a diagonal.",
            ),
        ),
        Section("Servers", _server_table(explanation, links)),
    ]
    return page(f"What forecasts of {explanation.run} rest on", sections, _lead(explanation, whole))


def server_page(explanation: Explanation, reading: Reading, back: str = "") -> str:
    """Return one server's page; `back` leads to the fleet's, where there is one."""
    title = f"What forecasts of {explanation.run} rest on: {reading.server}"
    lead = _lead(explanation, reading)
    if back:
        lead = f"<p><a href={quote(back)}>All servers, and how to read this</a></p>\n" + lead
    sections = [] if back else [Section("How to read this", items(HOW_TO_READ))]
    sections += [
        *_variable_sections(explanation, reading),
        Section("Where it looks", _attention(explanation, reading)),
    ]
    return page(title, sections, lead)


def _lead(explanation: Explanation, reading: Reading) -> str:
    whose = f"{len(explanation.servers)} servers" if reading.server is None else "this server"
    few = " So few say little about the spread." if reading.windows < 20 else ""
    return paragraph(
        f"{reading.windows:,} windows of {whose} in {explanation.data}, none trained on; first "
        f"forecast ticks of all windows looked at from {explanation.first_origin} to "
        f"{explanation.last_origin}. Quantile loss {reading.loss:.3f}, in standard deviations of "
        f"each window's own history.{few}",
        "soft",
    )


def _variable_sections(explanation: Explanation, reading: Reading) -> list[Section]:
    """Return the pictures and the table of variables, those that matter most first."""
    ranked = _ranked(reading)
    growth = spread_bars(
        [Bar(one.group, one.name, one.growth) for one in ranked],
        "What the loss grows by without it",
        f"mean of {explanation.shuffles} shuffles, least to most",
        VERMILION,
    )
    weights = spread_bars(
        [Bar(one.group, one.name, one.weight) for one in ranked],
        "What the network weighs",
        f"mean over windows, {100 * LOW:.0f}–{100 * HIGH:.0f} % range",
    )
    drawn = (
        picture(growth, "Growth of the loss when a variable is shuffled, a bar each", dpi=160),
        picture(weights, "Selection weight, a bar per variable", dpi=160),
    )
    pictures = PAIR + "".join(f"{HALF}{one}</div>" for one in drawn) + "</div>"
    return [
        Section("Which variables matter", pictures),
        Section("The same in numbers", _variable_table(ranked, reading.together)),
    ]


def _ranked(reading: Reading) -> list[Variable]:
    """Sort each group by measured importance, unknown last."""
    groups = list(dict.fromkeys(one.group for one in reading.variables))
    return sorted(
        reading.variables,
        key=lambda one: (groups.index(one.group), -np.nan_to_num(one.growth.mean, nan=-np.inf)),
    )


def _variable_table(ranked: list[Variable], together: tuple[Variable, ...]) -> str:
    targets = list(together[0].growth_by_target)
    header = ["variable", "group", "loss growth", "least to most",
              *(f"of {target}" for target in targets), "weight", "10–90 %"]  # fmt: skip
    rows = []
    for number, one in enumerate([*ranked, *together]):
        single = number < len(ranked)
        weight = one.weight
        rows.append(
            [
                one.name,
                one.group,
                per_cent(one.growth.mean),
                f"{per_cent(one.growth.low)} to {per_cent(one.growth.high)}",
                *(per_cent(one.growth_by_target[target]) for target in targets),
                per_cent(weight.mean) if single else "",
                f"{per_cent(weight.low)} to {per_cent(weight.high)}" if single else "",
            ]
        )
    strong = range(len(ranked), len(rows))
    return table(header, rows, text_columns=2, strong=strong)


def _attention(explanation: Explanation, reading: Reading) -> str:
    """Return the curve of attention by lag, a server's beside the fleet's."""
    several = reading is not explanation.whole
    figure = lag_curve(
        reading.by_lag, explanation.schema.step_seconds,
        explanation.whole.by_lag if several else None,
    )  # fmt: skip
    return picture(
        figure,
        "Attention a tick of history gets, by how long before the step asked for it lies",
        "Averaged over windows and horizon steps that could look there; 1 is as much as where all "
        f"of history is looked at alike. {per_cent(100 * reading.on_history)} of all attention is "
        "on history, the rest on the horizon's own steps.",
    )


def _server_table(explanation: Explanation, links: dict[str, str]) -> str:
    """Return a row per server that has a page: its loss, and what matters most to it."""
    rows = []
    for reading in explanation.servers:
        if reading.server not in links:
            continue
        most = max(reading.variables, key=lambda one: np.nan_to_num(one.growth.mean, nan=-np.inf))
        name = f"<a href={quote(links[reading.server])}>{escape(reading.server)}</a>"
        rows.append(
            f"<tr><td class=text>{name}</td><td>{reading.windows}</td><td>{reading.loss:.3f}</td>"
            f"<td class=text>{escape(f'{most.name} ({most.group})')}</td>"
            f"<td>{escape(per_cent(most.growth.mean))}</td></tr>"
        )
    left_out = len(explanation.servers) - len(rows)
    note = ""
    if left_out:
        note = paragraph(
            f"{left_out} more servers were looked at and are in explanation.json; any server has "
            "its own page with --server.",
            "soft",
        )
    head = (
        "<th class=text>server</th><th>windows</th><th>loss</th>"
        "<th class=text>matters most</th><th>loss growth</th>"
    )
    body = "".join(rows)
    made = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{made}</div>{note}'
