"""Tables are aligned, say what was measured and nothing where nothing was."""

import json
import math

import pytest

from report.scores import Scores, mean_row
from report.text import (
    EvaluationReport,
    ForecasterScores,
    bucket_table,
    evaluation_markdown,
    evaluation_text,
    format_table,
    score_table,
    skill,
    skill_table,
)


def make_scores(metric, wql, **changes):
    fields = {
        "mae": 2.5, "rmse": 4.0, "rmae_seasonal": 0.75, "coverage": 0.8125, "width": 9.0,
        "crossing": 0.0, "observed": 100,
    }  # fmt: skip
    return Scores(metric=metric, wql=wql, **{**fields, **changes})


def make_forecaster(name, cpu, net):
    unseen = dict.fromkeys(
        ("mae", "rmse", "rmae_seasonal", "coverage", "width", "crossing"), math.nan
    )
    rows = [
        make_scores("cpu|percent", cpu),
        make_scores("net_in_kbs", net, mae=45_678.9, crossing=0.00001),
        make_scores("disk_percent", math.nan, observed=0, **unseen),
    ]
    rows = (*rows, mean_row(rows))
    return ForecasterScores(name, rows, {"up to 30 min": rows, "30 min to 8 h": rows[::-1]}, 1.25)


def make_report(**changes):
    fields = {
        "run": "run-7", "data": "fleet.parquet", "servers_known": 12, "servers_new": 3,
        "windows": 1000, "not_finite": 0,
        "first_origin": "2026-01-01T00:00Z", "last_origin": "2026-02-01T00:00Z",
        "step_seconds": 300, "horizon": 96, "seconds": 61.25,
        "forecasters": (
            make_forecaster("fleet-tft", 0.2, 0.3),
            make_forecaster("last_value", 0.4, 0.2),
            make_forecaster("window_quantiles", 0.25, 0.0),
        ),
    }  # fmt: skip
    return EvaluationReport(**{**fields, **changes})


def cells_of(line):
    return [cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")]


def test_score_table_is_aligned_and_holds_every_row():
    lines = score_table(make_report().forecasters).splitlines()
    assert len(lines) == 2 + 3 * 4
    assert lines[0].split()[:5] == ["forecaster", "metric", "wQL", "MAE", "rMAE_seasonal"]
    assert len({len(line) for line in lines}) == 1  # the last column is aligned right
    assert "fleet-tft" in lines[2] and "0.2000" in lines[2] and "81.2 %" in lines[2]
    assert "45,679" in lines[3]
    assert lines[3].endswith("< 0.01 %")  # seldom is not never
    assert lines[4].split()[2:] == ["-"] * 5
    assert lines[5].split()[1:3] == ["mean", "0.2500"]


def test_markdown_holds_the_same_cells():
    forecasters = make_report().forecasters
    lines = score_table(forecasters, markdown=True).splitlines()
    assert cells_of(lines[2])[:4] == ["fleet-tft", "cpu¦percent", "0.2000", "2.5000"]
    assert all(len(cells_of(line)) == 7 for line in lines)
    assert cells_of(lines[1])[0].endswith("-") and cells_of(lines[1])[2].endswith("-:")
    plain = score_table(forecasters).splitlines()
    for ours, theirs in zip(lines[2:], plain[2:], strict=True):
        assert "".join(cells_of(ours)).replace("¦", "|").replace(" ", "") == theirs.replace(" ", "")


def test_skill_table_compares_the_model_with_each_naive_forecast():
    lines = skill_table(make_report().forecasters, markdown=True).splitlines()
    assert cells_of(lines[0])[2:] == ["over last_value", "over window_quantiles"]
    assert [cells_of(line)[1] for line in lines[2:]] == [
        "cpu¦percent", "net_in_kbs", "disk_percent", "mean",
    ]  # fmt: skip
    assert cells_of(lines[2])[2:] == ["+50.0 %", "+20.0 %"]
    assert cells_of(lines[3])[2:] == ["-50.0 %", "-"]  # a naive wQL of zero has no ratio
    assert cells_of(lines[4])[2:] == ["-", "-"]
    assert cells_of(lines[5])[2:] == ["+16.7 %", "-100.0 %"]


def test_skill():
    assert skill(0.2, 0.4) == 0.5
    assert math.isnan(skill(0.2, 0.0))
    assert math.isnan(skill(math.nan, 0.4)) and math.isnan(skill(0.2, math.nan))


def test_bucket_table_has_the_last_row_of_each_bucket_in_order():
    lines = bucket_table(make_report().forecasters, markdown=True).splitlines()
    assert [cells_of(line)[:3] for line in lines[2:]] == [
        ["up to 30 min", "fleet-tft", "0.2500"],
        ["up to 30 min", "last_value", "0.3000"],
        ["up to 30 min", "window_quantiles", "0.1250"],
        ["30 min to 8 h", "fleet-tft", "0.2000"],
        ["30 min to 8 h", "last_value", "0.4000"],
        ["30 min to 8 h", "window_quantiles", "0.2500"],
    ]


def test_an_evaluation_survives_json_and_is_rendered_whole():
    plain = make_report().to_dict()
    back = json.loads(json.dumps(plain, allow_nan=False))
    assert EvaluationReport.from_dict(back).to_dict() == plain
    assert back["forecasters"][0]["rows"][2]["wql"] is None
    markdown, text = evaluation_markdown(back), evaluation_text(back)
    assert markdown.startswith("# Evaluation of run-7\n") and text.startswith("Evaluation of")
    facts = [
        "fleet.parquet",
        "training: 12",
        "new: 3",
        "1000",
        "2026-01-01T00:00Z",
        "61.2 s",
        "8 h",
    ]
    for fact in [*facts, "last_value 1.25 s", "2026-02-01T00:00Z", "up to 30 min", "+50.0 %"]:
        assert fact in markdown and fact in text
    assert "|" not in text.replace("|actual|", "").replace("cpu|percent", "")
    assert "scored: 200 observed target ticks of 288,000" in text  # 1000 x 96 x 3
    assert "only windows after the training period" in text


def test_forecasts_that_are_no_numbers_are_counted():
    assert "not finite" not in evaluation_text(make_report().to_dict())
    text = evaluation_text(make_report(not_finite=1234).to_dict())
    assert "not finite: 1,234 forecasts of fleet-tft" in text


def test_numbers_stay_readable_whatever_their_size():
    values = [0.0, 5e-7, -0.0002, 0.25, 12.345, 45_678.9, 2.5e40, -1e6]
    rows = [make_scores("cpu", value) for value in values]
    lines = score_table([ForecasterScores("tft", tuple(rows), {}, 0.0)], markdown=True).splitlines()
    assert [cells_of(line)[2] for line in lines[2:]] == [
        "0.0000", "5e-07", "-0.0002", "0.2500", "12.35", "45,679", "2.5e+40", "-1e+06",
    ]  # fmt: skip


def test_a_hopeless_skill_is_cut_off():
    forecasters = [make_forecaster("tft", 5e6, 1.0), make_forecaster("last_value", 0.4, 0.1)]
    lines = skill_table(forecasters, markdown=True).splitlines()
    assert [cells_of(line)[2] for line in lines[2:4]] == ["< -999 %", "-900.0 %"]


@pytest.mark.parametrize("field", ["run", "data"])
def test_a_report_names_no_path(field):
    with pytest.raises(ValueError, match="is a path; give its last part only"):
        make_report(**{field: "somewhere/fleet.parquet"})


def test_format_table_without_rows_still_has_its_header():
    assert format_table(["a", "bb"], [], text_columns=1) == "a     bb\n---  ---"
