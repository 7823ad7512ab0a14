"""The load test asks for everything it says it does, and judges by what it measured."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

pytest.importorskip("uvicorn", reason="serving needs: pip install 'fleet-tft[serve]'")

from benchmarks.serve import MIX, judge, serve


def test_a_short_run_measures_answers_and_ticks(tmp_path: Path) -> None:
    record = tmp_path / "results" / "serve.json"
    options = ["--servers", "3", "--rate", "50", "--seconds", "2", "--tick-every", "1"]
    result = CliRunner().invoke(serve, [*options, "--ticks-of", "2", "--json", str(record)])
    assert result.exit_code == 0, result.output
    content = json.loads(record.read_text())
    assert content["on"]["commit"] and content["servers"] == 3
    load = content["load"]
    *each, every = load["requests"]
    assert {row["request"] for row in each} <= set(MIX)
    assert every["count"] == sum(row["count"] for row in each) == 100
    assert 0 < every["p50"] <= every["p99"] <= every["worst"]
    assert load["feed"]["count"] == load["feed_to_forecast"]["count"] > 0
    assert load["tick"]["worst"] >= load["feed_to_forecast"]["worst"]
    (tick,) = content["ticks"]
    assert tick["servers"] == 2 and tick["turn_seconds"] > 0
    assert content["goals"] == [], "goals are of larger fleets"
    assert "from its answer to its forecast being told" in result.output


@pytest.mark.parametrize(
    ("p99", "loaded", "tick", "holds"),
    [(0.05, 1.0, 1.0, [True, True, True]), (0.051, 1.01, 1.01, [False, False, False])],
)
def test_goals_are_judged_where_they_were_measured(
    p99: float, loaded: float, tick: float, holds: list[bool]
) -> None:
    measured: dict[str, Any] = {
        "servers": 160,
        "rate": 200,
        "load": {
            "requests": [{"request": "one", "p99": 9.0}, {"request": "all", "p99": p99}],
            "tick": {"p50": 0.9, "worst": loaded},
        },
        "ticks": [{"servers": 160, "worst_seconds": tick}, {"servers": 161, "worst_seconds": 9.0}],
    }
    assert [goal["holds"] for goal in judge(measured)] == holds
    assert len(judge({**measured, "rate": 100})) == 1
    large = judge({**measured, "ticks": [{"servers": 10_000, "worst_seconds": 301.0}]})
    assert [goal["holds"] for goal in large] == [*holds[:2], False]
