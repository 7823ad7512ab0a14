"""Explanations find what was planted, and padding and gaps distort none of them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner, Result

from cli import cli
from data.reading import TableSpec, read_fleet
from data.windows import WindowStore
from report.evaluate import held_out_windows
from report.explain import BEFORE, Change, _swapped, explain
from report.explain_page import file_name, index_page
from report.explanation import Explanation, Reading, Variable
from tests.builders import (
    SCHEMA,
    SMALL_TRAINING,
    random_batch,
    small_fleet,
    small_table,
    tiny_forecaster,
)
from tft.bundle import load_forecaster
from train import TFTTrainer, TrainConfig

T, H = SCHEMA.context_length, SCHEMA.prediction_horizon
SIZES = {
    "hidden_size": 8,
    "embedding_size": 4,
    "attention_heads": 2,
    "validation_windows": 64,
    "learning_rate": 0.02,
    "target_metrics": ("load",),
}


def trained_on(table: pd.DataFrame, folder: Path, spec: TableSpec, **config: object) -> Explanation:
    """Train a tiny network on a table and explain it on what came after."""
    torch.manual_seed(0)
    table.to_parquet(folder / "table.parquet")
    trainer = TFTTrainer(TrainConfig(**{**SIZES, **config}), spec, lambda line: None)
    run = trainer.train(folder / "table.parquet", folder / "run")
    forecaster = load_forecaster(run / "model")
    fleet = read_fleet(folder / "table.parquet", spec, forecaster.schema).fleet
    return explain(forecaster, fleet, "run", "table.parquet", windows=64)


def of_group(reading: Reading, group: str) -> dict[str, Variable]:
    return {one.name: one for one in reading.variables if one.group == group}


# --- planted truths -----------------------------------------------------------------------------


def test_the_one_input_that_carries_the_signal_comes_first(tmp_path: Path) -> None:
    """The load is a queue's length an hour before, and noise; the queue jumps every 16 ticks."""
    draw, ticks, frames = np.random.default_rng(0), 1200, []
    for number in range(4):
        queue = np.repeat(draw.normal(size=ticks), 16)[draw.integers(16) :][: ticks + 12]
        frames.append(
            pd.DataFrame(
                {
                    "timestamp": pd.date_range("2026-01-05", periods=ticks, freq="5min", tz="UTC"),
                    "server_name": f"server{number}",
                    "load": queue[:ticks] + draw.normal(0, 0.3, ticks),
                    "queue": queue[12:],
                    "noise": draw.normal(0, 1, ticks),
                }
            )
        )
    read = trained_on(
        pd.concat(frames), tmp_path, TableSpec(targets=("load",), observed=("queue", "noise")),
        context_length=24, min_context_length=24, prediction_horizon=12, epochs=5, dropout=0.1,
        windows_per_epoch=1024, random_seed=1, ema_decay=None, learning_rate=0.01,
    )  # fmt: skip
    past = of_group(read.whole, "past")
    assert max(past, key=lambda name: past[name].growth.mean) == "queue"
    assert max(past, key=lambda name: past[name].weight.mean) == "queue"
    others = [one.growth for one in read.whole.variables if one.name != "queue"]
    assert past["queue"].growth.low > 1.5 * max(growth.high for growth in others)
    assert past["noise"].growth.high < 2.0
    # Every single server says so too: its windows were shuffled with the fleet's.
    for reading in read.servers:
        mine = of_group(reading, "past")
        assert max(mine, key=lambda name: mine[name].growth.mean) == "queue"


def test_a_daily_rhythm_is_read_off_yesterday_or_the_clock(tmp_path: Path) -> None:
    """A day of hours, each day alike: what is known ahead must carry the forecast."""
    draw, ticks, frames = np.random.default_rng(0), 24 * 40, []
    for number in range(4):
        shape = np.tile(draw.normal(0, 1, 24), 40)  # each server's own day
        frames.append(
            pd.DataFrame(
                {
                    "timestamp": pd.date_range("2026-01-05", periods=ticks, freq="h", tz="UTC"),
                    "server_name": f"server{number}",
                    "load": shape + draw.normal(0, 0.2, ticks),
                    "noise": draw.normal(0, 1, ticks),
                }
            )
        )
    read = trained_on(
        pd.concat(frames), tmp_path,
        TableSpec(targets=("load",), observed=("noise",), step_seconds=3600),
        context_length=48, min_context_length=24, prediction_horizon=12, epochs=3,
        windows_per_epoch=1024,
    )  # fmt: skip
    future, before = of_group(read.whole, "future"), "load before"
    assert max(read.whole.variables, key=lambda one: one.growth.mean).name == before
    assert future[before].growth.low > 20.0
    together = {one.group: one.growth.mean for one in read.whole.together}
    assert together["future"] > 5 * together["past"]
    assert of_group(read.whole, "past")["noise"].growth.high < 2.0


# --- what may not distort -----------------------------------------------------------------------


def test_padding_changes_nothing() -> None:
    """Every history here is shorter than either context: only the padding differs."""
    fleet = small_fleet((30, 30, 30))
    short, long = (
        explain(
            tiny_forecaster(schema=replace(SCHEMA, context_length=ticks)), fleet, "run", "table"
        )
        for ticks in (T, 2 * T)
    )
    assert short.whole.loss == pytest.approx(long.whole.loss, rel=1e-5)
    assert short.whole.on_history == pytest.approx(long.whole.on_history, rel=1e-4)
    np.testing.assert_allclose(short.whole.by_lag, long.whole.by_lag[: T + H], rtol=1e-4)
    np.testing.assert_allclose(short.by_step, long.by_step[:, T:], rtol=1e-4)
    assert np.isnan(short.whole.by_lag[-1]) and np.isnan(long.whole.by_lag[T + H :]).all()
    for one, two in zip(short.whole.variables, long.whole.variables, strict=True):
        assert one.weight == pytest.approx(two.weight, rel=1e-4)
        assert one.growth == pytest.approx(two.growth, abs=1e-3)


def test_only_ticks_with_a_value_count() -> None:
    """At a missing tick the network weighs nothing but the calendar."""
    fleet = small_fleet((60,))
    fleet.values[::3] = np.nan
    forecaster = tiny_forecaster()
    read = explain(forecaster, fleet, "run", "table", windows=1)
    store = WindowStore(fleet, SCHEMA, known_servers=())
    batch = store.gather(*held_out_windows(fleet, forecaster).windows.lookup(np.array([0])))
    seen = batch.past.isfinite().any(-1)
    weights = forecaster.explain(batch, return_weights=True).past_weights
    assert weights is not None
    expected = 100 * weights[seen].mean(0).numpy()
    means = [one.weight.mean for one in of_group(read.whole, "past").values()]
    assert means == pytest.approx(expected, rel=1e-4)
    unseen = torch.cat([~seen[0], torch.zeros(H, dtype=torch.bool)]).numpy()
    assert np.isnan(read.by_step[:, unseen]).all() and np.isfinite(read.by_step[-1, ~unseen]).all()


@pytest.mark.parametrize("patch", [1, 4, 12])
def test_even_attention_is_one_everywhere(patch: int) -> None:
    """So a peak is a peak, whatever is missing and however many steps could look there."""
    fleet = small_fleet((200, 40))
    fleet.values[np.random.default_rng(1).random(len(fleet.values)) < 0.3] = np.nan
    forecaster = tiny_forecaster(patch_length=patch)
    with torch.no_grad():
        forecaster.network.attention.query.weight.zero_()
        forecaster.network.attention.query.bias.zero_()
    read = explain(forecaster, fleet, "run", "table", windows=60)
    assert read.whole.by_lag[1:] == pytest.approx(np.ones(T + H - 1))
    known = read.by_step[np.isfinite(read.by_step)]
    assert known == pytest.approx(np.ones(len(known)))
    for group in ("past", "future", "static"):
        weights = [one.weight.mean for one in of_group(read.whole, group).values()]
        assert sum(weights) == pytest.approx(100, abs=0.01)


def test_what_the_network_ignores_is_worth_nothing() -> None:
    """The profile's embedding is zero here, so swapping profiles can change no forecast."""
    forecaster, fleet = tiny_forecaster(), small_fleet((200, 200, 200))
    with torch.no_grad():
        forecaster.network.category_embeddings[1].weight.zero_()
    read = explain(forecaster, fleet, "run", "table", windows=30)
    growth = of_group(read.whole, "static")["profile"].growth
    assert growth.low == growth.high == 0.0
    assert of_group(read.whole, "past")["cpu_percent"].growth.mean != 0.0


def test_a_servers_own_windows_say_the_same_alone() -> None:
    """Memory and batches have no say: sums by server are what a look at one server gives."""
    forecaster, fleet = tiny_forecaster(), small_fleet((60, 50, 40))
    every = explain(forecaster, fleet, "run", "table", windows=None)
    alone = explain(forecaster, fleet, "run", "table", server="server1", windows=None).whole
    among = next(reading for reading in every.servers if reading.server == "server1")
    assert sum(reading.windows for reading in every.servers) == every.whole.windows
    assert (among.windows, among.loss) == (alone.windows, pytest.approx(alone.loss))
    assert among.on_history == pytest.approx(alone.on_history)
    np.testing.assert_allclose(among.by_lag, alone.by_lag, rtol=1e-5)
    for one, two in zip(among.variables, alone.variables, strict=True):
        assert one.weight == pytest.approx(two.weight, rel=1e-4)


# --- pages and command --------------------------------------------------------------------------


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table, one server of which has a name no file could have, and a run."""
    folder = tmp_path_factory.mktemp("made")
    table = small_table().replace({"server_name": {"server2": "../rack/<7> é"}})
    table.to_csv(folder / "fleet.csv", index=False)
    config = TrainConfig(**{**SMALL_TRAINING, "epochs": 1})
    TFTTrainer(config, say=lambda line: None).train(folder / "fleet.csv", folder / "run")
    return folder


def test_explain_writes_pages_and_json(made: Path, tmp_path: Path) -> None:
    result = invoke("explain", made / "run", "--data", made / "fleet.csv", "--windows", "12",
                    "--out-dir", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.split() == [
        str(tmp_path / "out" / "explanation.json"), str(tmp_path / "out" / "index.html"),
    ]  # fmt: skip
    plain = json.loads((tmp_path / "out" / "explanation.json").read_text())
    assert {one["name"] for one in plain["whole"]["variables"]} >= {"cpu_percent", "hour_of_day"}
    assert len(plain["whole"]["attention_by_lag"]) == 24 + 6
    index = (tmp_path / "out" / "index.html").read_text()
    assert "not what makes a metric move" in index and "&lt;7&gt; é" in index
    pages = sorted(path.name for path in (tmp_path / "out" / "servers").iterdir())
    assert pages == ["0000-rack-7.html", "0001-server0.html", "0002-server1.html"]
    assert all(f'href="servers/{name}"' in index for name in pages)


def test_explain_of_one_server_leaves_the_fleets_pages_alone(made: Path, tmp_path: Path) -> None:
    arguments = ("explain", made / "run", "--data", made / "fleet.csv", "--windows", "5",
                 "--out-dir", tmp_path, "--server")  # fmt: skip
    result = invoke(*arguments, "server1")
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {
        "0002-server1.json", "0002-server1.html",
    }  # fmt: skip
    result = invoke(*arguments, "sevrer1")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1] == (
        "Error: no server 'sevrer1' in the table; did you mean 'server1'?"
    )


def test_names_of_files_are_plain_and_never_shared() -> None:
    """Two servers whose names differ in what no file may hold, or in case alone."""
    fleet = replace(small_fleet(), servers=("a/b", "a:b", "A" * 300))
    names = [file_name(fleet, server).lower() for server in fleet.servers]
    assert len(set(names)) == 3
    assert all(len(name) < 100 and set(name) <= set("ab-0123456789") for name in names)


def test_a_page_says_when_a_value_is_unknown() -> None:
    """A server forecast without any loss has no growth; its page is drawn all the same."""
    read = explain(tiny_forecaster(), small_fleet(), "run", "table", windows=10)
    unknown = [
        replace(one, growth=one.growth._replace(mean=np.nan, low=np.nan, high=np.nan))
        for one in read.whole.variables
    ]
    html = index_page(replace(read, whole=replace(read.whole, variables=tuple(unknown))), {})
    assert html.count("unknown") >= len(unknown)
    assert json.dumps(read.to_dict(), allow_nan=False)


def test_a_naive_forecast_brings_along_what_it_rests_on() -> None:
    """A share of nothing, of a server that has just begun, is not lent to another's month."""
    forecaster = tiny_forecaster()
    own, donors = (forecaster.encode(random_batch(seed=seed)).inputs for seed in (0, 1))
    assert own.naive_seen is not None
    donors = donors._replace(naive_seen=torch.zeros_like(own.naive_seen))
    known, hours = len(SCHEMA.known), Change("future", (len(SCHEMA.known) + 1,))
    swapped = _swapped(own, donors, hours)
    assert known + len(SCHEMA.targets) == own.future.shape[2]
    came = (swapped.naive_seen != own.naive_seen).any(0)
    assert came.nonzero().tolist() == [[1, kind] for kind in BEFORE]
    assert torch.equal(swapped.naive[:, :, 1, BEFORE], donors.naive[:, :, 1, BEFORE])
    assert torch.equal(swapped.naive[:, :, 0], own.naive[:, :, 0])
