"""The soak asks, counts and watches memory, and calls what grows growing."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

pytest.importorskip("uvicorn", reason="serving needs: pip install 'fleet-tft[serve]'")

from benchmarks.soak import flat, soak
from tests.builders import tiny_forecaster
from tests.test_demo import OF_THE_FLEET
from tft.bundle import save_forecaster


def test_a_short_soak(tmp_path: Path) -> None:
    save_forecaster(tiny_forecaster(10, OF_THE_FLEET), tmp_path / "run" / "model")
    record = tmp_path / "soak.json"
    options = ["--minutes", "0.05", "--tick-seconds", "0.2", "--rate", "20", "--json", str(record)]
    result = CliRunner().invoke(soak, [str(tmp_path / "run"), *options])
    assert result.exit_code == 0, result.output
    content = json.loads(record.read_text())
    assert content["failed"] == [] and content["requests"] == 60
    assert content["ticks"] > 0 and content["memory"][0]["bytes"] > 1e7
    assert "60 requests, 0 failed" in result.output


def test_memory_is_flat_where_it_does_not_grow_after_its_first_third() -> None:
    grown = [100, 200, 300, 300, 300, 300, 301, 302, 303]
    assert flat(grown) and not flat([*grown[:6], 310, 311, 312])
    assert flat([7]), "a short run has one sample"
