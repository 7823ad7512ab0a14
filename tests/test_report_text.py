"""The terminal's text is short, aligned, and says nothing where nothing was measured."""

import math
from dataclasses import replace

import pytest

from report.claims import derive_claims
from report.text import (
    TERMINAL_WIDTH,
    evaluation_text,
    format_table,
    group_table,
    metric_table,
    number_cell,
    share_cell,
    skill_cell,
)
from tests.reports import make_group, make_report, make_rows, make_run, unseen


def cells_of(line):
    return [cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")]


def test_metric_table_is_aligned_and_compares_every_forecaster():
    lines = metric_table(make_report()).splitlines()
    assert len({len(line) for line in lines}) == 1  # the last column is aligned right
    assert lines[2].split() == [
        "cpu_percent", "0.2000", "0.2500", "0.5000", "0.4000", "+20.0", "%", "81.2", "%",
    ]  # fmt: skip
    # The mean's skill compares mean losses: 1 - 0.25 / 0.325.
    assert lines[4].split()[:2] == ["mean", "0.2500"] and "+23.1 %" in lines[4]


def test_a_metric_never_observed_has_dashes():
    report = make_report()
    model = replace(report.model, rows=(unseen("cpu_percent"), *report.model.rows[1:]))
    line = metric_table(replace(report, forecasters=(model, *report.naives))).splitlines()[2]
    assert line.split()[1] == "-" and line.split()[-2:] == ["-", "-"]


def test_the_largest_evaluation_fits_a_terminal():
    """Forty lines of a hundred columns: nothing scrolls away."""
    metrics = tuple(f"a_metric_with_quite_a_long_name_{n}_percent" for n in range(20))
    groups = [
        make_group(name=f"{who} servers, {kind}", new=who == "new", validation=kind != "held out")
        for who in ("known", "new")
        for kind in ("validation", "held out")
    ]
    groups += [
        make_group(name=f"new servers, {h} h of history", new=True, history_hours=h,
                   cold_start=True)
        for h in (1, 6, 24)
    ]  # fmt: skip
    report = make_report(
        (0.2, 0.3) * 10, metrics, groups=tuple(groups), run="r" * 90, data="d" * 90
    )
    text = evaluation_text(report, derive_claims(report, make_run()))
    lines = [*text.splitlines(), "evaluation.json", "forecasts.png", "report.html"]
    assert max(map(len, lines)) <= TERMINAL_WIDTH
    assert len(lines) <= 40
    assert "12 more metrics on the page" in text and "mean" in text


def test_the_text_holds_a_claim_of_each_kind_and_what_others_say():
    report = make_report()
    claims = derive_claims(report, make_run())
    text = evaluation_text(report, claims, ["cpu_percent left the training range"])
    assert text.startswith("run-7 on fleet.parquet: 1,000 windows of 12 known and 0 new servers")
    for part in ("maturity:", "claim:", "do not claim:", "left the training range"):
        assert part in text
    assert "windows of  " not in text  # one kind of windows needs no table of kinds


def test_group_table_marks_cold_starts():
    groups = [make_group(), make_group(name="new servers, 1 h of history", cold_start=True)]
    lines = group_table(groups).splitlines()
    assert lines[2].startswith("known servers, held out ") and "(cold start)" not in lines[2]
    assert lines[3].startswith("new servers, 1 h of history (cold start)")
    assert lines[2].split()[-7:] == ["1,000", "0.2500", "0.3250", "+23.1", "%", "81.2", "%"]


def test_markdown_holds_the_same_cells():
    """Tables of a cross-validation are kept in Markdown too."""
    rows = [["cpu|percent", "0.2"], ["net", "12.5"]]
    lines = format_table(["metric", "wQL"], rows, text_columns=1, markdown=True).splitlines()
    assert [cells_of(line) for line in lines[2:]] == [["cpu¦percent", "0.2"], ["net", "12.5"]]
    assert cells_of(lines[1])[0].endswith("-") and cells_of(lines[1])[1].endswith("-:")


def test_format_table_without_rows_still_has_its_header():
    assert format_table(["a", "bb"], [], text_columns=1) == "a     bb\n---  ---"


def test_numbers_stay_readable_whatever_their_size():
    values = [0.0, 5e-7, -0.0002, 0.25, 12.345, 45_678.9, 2.5e40, -1e6, math.nan]
    assert [number_cell(value) for value in values] == [
        "0.0000", "5e-07", "-0.0002", "0.2500", "12.35", "45,679", "2.5e+40", "-1e+06", "-",
    ]  # fmt: skip


def test_a_hopeless_skill_is_cut_off():
    assert [skill_cell(value) for value in (-20.0, -9.0, -1e-5, 0.5, math.nan)] == [
        "< -999 %", "-900.0 %", "+0.0 %", "+50.0 %", "-",
    ]  # fmt: skip
    assert share_cell(math.nan) == "-"


def test_an_evaluation_is_json_and_scores_that_are_no_numbers_are_null():
    report = make_report()
    model = replace(report.model, rows=make_rows((math.nan, 0.3)))
    plain = replace(report, forecasters=(model, *report.naives)).to_dict()
    assert plain["forecasters"][0]["rows"][0]["wql"] is None
    assert plain["forecasters"][0]["rows"][1]["wql"] == 0.3
    assert plain["groups"][0]["scores"]["tft"][0]["coverage"] == 0.8125


@pytest.mark.parametrize("field", ["run", "data"])
def test_a_report_names_no_path(field):
    with pytest.raises(ValueError, match="is a path; give its last part only"):
        make_report(**{field: "somewhere/fleet.parquet"})
