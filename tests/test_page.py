"""The page holds every part that something is known of, and no other."""

import re

from matplotlib.figure import Figure

from report.claims import derive_claims
from report.html import Section
from report.page import evaluation_page
from tests.reports import make_group, make_report, make_run


def page_of(report=None, run=None, extra=()):
    report = report or make_report()
    figure = Figure(figsize=(1, 1))
    return evaluation_page(report, derive_claims(report, run), run, figure, extra)


def titles(html):
    return re.findall(r"<h2>(.*?)</h2>", html)


def test_every_part_has_its_section_and_is_linked():
    html = page_of(run=make_run())
    assert titles(html) == [
        "At a glance",
        "What may be claimed",
        "Along the horizon",
        "Calibration",
        "Known, new and cold-start servers",
        "Worst servers",
        "Examples",
        "Training: convergence, time and memory",
        "Inference",
        "How figures are defined",
    ]
    links = re.findall(r'href="#(\w+)"', html)
    assert links == re.findall(r'<section id="(\w+)"', html) and len(links) == 10
    assert html.count("<img") == 3  # reliability, examples, convergence


def test_without_a_run_the_parts_nobody_knows_are_left_out():
    html = page_of(make_report(latency=None))
    assert not {"Training: convergence, time and memory", "Inference"} & set(titles(html))
    assert html.count("<img") == 2


def test_other_judgements_have_their_place():
    html = page_of(run=make_run(), extra=[Section("Early warning", "<p>body</p>", "warning")])
    assert titles(html)[7:9] == ["Early warning", "Training: convergence, time and memory"]


def test_every_metric_has_every_horizon_with_its_scores():
    html = page_of(run=make_run())
    section = html[html.index('id="horizon"') : html.index('id="calibration"')]
    rows = re.findall(r"<tr.*?</tr>", section)
    assert len(rows) == 1 + 3 * 4  # two metrics and the mean: whole and three buckets
    cells = re.findall(r"<td.*?>(.*?)</td>", rows[1])
    assert cells == [
        "cpu_percent", "whole", "0.2000", "2.5000", "4.0000", "+20.0 %", "+60.0 %",
        "+50.0 %", "81.2 %", "9.0000", "100",
    ]  # fmt: skip
    mean = re.findall(r"<td.*?>(.*?)</td>", rows[9])
    assert mean[0] == "mean" and mean[3:5] == ["-", "-"]  # units are not averaged


def test_bands_of_the_loss_say_their_unit():
    """An 0.1 of the weighted quantile loss is not an 0.1 of the training's."""
    html = page_of(run=make_run())
    assert "excellent under 0.10" in html
    assert "normalised units (in spreads of each window)" in html


def test_validation_windows_and_cold_starts_are_explained_where_there_are_some():
    plain = page_of(make_report(groups=(make_group(validation=None),)))
    assert "flatters" not in plain and "cold start is" not in plain
    groups = (make_group(), make_group(new=True, history_hours=1.0, cold_start=True))
    html = page_of(make_report(groups=groups))
    assert "which flatters the model" in html and "(cold start)" in html


def test_worst_servers_are_ordered_both_ways():
    html = page_of()
    section = html[html.index('id="servers"') : html.index('id="examples"')]
    names = re.findall(r"<td class=text>(server\d)</td>", section)
    assert names == ["server4", "server3", "server2", "server1", "server0"] * 2
    assert "1 of 5 servers scored have a higher loss" in section


def test_a_page_names_no_path_and_asks_nobody_for_anything():
    html = page_of(run=make_run())
    assert "http" not in html and "<script" not in html
    assert not re.search(r"(?<![\w+/=<])/(home|work|tmp|Users|root)\b", html)
