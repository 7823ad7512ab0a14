"""Publishing writes one page, one picture and one JSON that agree with each other."""

import json
from pathlib import Path

from report.publish import publish
from tests.builders import small_fleet, tiny_forecaster
from tft.forecaster import TrainingFacts


def test_a_page_a_picture_and_what_machines_read(tmp_path: Path) -> None:
    forecaster, seen = tiny_forecaster(), []
    forecaster.facts = TrainingFacts(("server0", "server1"), 1040)
    published = publish(
        forecaster, small_fleet(), tmp_path / "model", "fleet.csv", False, tmp_path / "out",
        windows=40, progress=seen.append,
    )  # fmt: skip
    assert [path.name for path in published.files] == [
        "evaluation.json", "forecasts.png", "report.html",
    ]  # fmt: skip
    assert sorted(tmp_path.glob("out/*")) == sorted(published.files)  # nothing else is left
    plain = json.loads(published.files[0].read_text())
    names = [each["name"] for each in plain["forecasters"]]
    assert names == ["tft", "last_value", "seasonal_naive", "window_quantiles"]
    assert {"wql", "coverage"} <= set(plain["forecasters"][0]["rows"][0])
    assert [group["history_hours"] for group in plain["groups"]] == [None, None, 1, 6, 24]
    assert plain["claims"]["maturity"].startswith("unknown")
    page = published.files[2].read_text()
    assert 'id="early-warning"' in page and 'id="drift"' in page and str(tmp_path) not in page
    assert "early warning" in published.text and "drift: not looked for" in published.text
    assert plain["drift"] == [] and plain["early_warning"]["forecasters"][0]["name"] == "tft"
    assert seen == sorted(seen) and seen[-1] == 1.0
