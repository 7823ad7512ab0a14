"""What another fleet's forecaster hands on: by name, whatever the order, and nothing of servers."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from cli import cli
from tests.builders import SCHEMA, SMALL_TRAINING, random_batch, small_table, tiny_forecaster
from tft.batch import WindowBatch
from tft.bundle import load_forecaster, save_forecaster
from tft.forecaster import Forecaster, TrainingFacts
from tft.schema import UNKNOWN_CODE, FeatureSchema, Metric
from train import TFTTrainer, TrainConfig
from train.init import load_source, start_from

CPU, LOAD = SCHEMA.targets
(TEMPERATURE,) = SCHEMA.observed


def strangers(schema: FeatureSchema = SCHEMA) -> WindowBatch:
    """Return windows of servers never seen, of profile `database`."""
    batch = random_batch(schema=schema)
    codes = torch.zeros_like(batch.static_codes)
    codes[:, 1] = schema.profile_code("database")
    return batch._replace(static_codes=codes)


def with_statistics_of(source: Forecaster, forecaster: Forecaster, metrics: list[int]) -> None:
    """Give a forecaster the source's normaliser, its metrics in another order."""
    for name, buffer in source.normaliser.named_buffers():
        rows = buffer if name.startswith("static") else buffer[metrics]
        getattr(forecaster.normaliser, name)[: len(rows)] = rows


def test_an_unknown_server_is_forecast_as_by_the_source() -> None:
    source, forecaster = tiny_forecaster(seed=1), tiny_forecaster(seed=2)
    with_statistics_of(source, forecaster, [0, 1, 2])
    assert not torch.allclose(forecaster.forecast(strangers()), source.forecast(strangers()))
    start_from(source, forecaster)
    assert torch.equal(forecaster.forecast(strangers()), source.forecast(strangers()))


def test_every_server_starts_as_the_unknown_one() -> None:
    """Buckets are of names: a namesake in another fleet is a stranger."""
    source, forecaster = tiny_forecaster(seed=1), tiny_forecaster(seed=2)
    start_from(source, forecaster)
    given, servers = (f.network.category_embeddings[0].weight for f in (source, forecaster))
    assert torch.equal(servers, given[UNKNOWN_CODE].expand_as(servers))


def test_statistics_stay_those_of_the_new_fleet() -> None:
    source, forecaster = tiny_forecaster(seed=1), tiny_forecaster(seed=2)
    before = {name: b.clone() for name, b in forecaster.normaliser.named_buffers()}
    start_from(source, forecaster)
    after = dict(forecaster.normaliser.named_buffers())
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not torch.equal(before["typical_level"], source.normaliser.typical_level)


def test_metrics_in_another_order_give_the_same_forecasts() -> None:
    """Weights go by name, not by place: in embeddings, selections and outputs."""
    source = tiny_forecaster(seed=1)
    turned = replace(SCHEMA, targets=(LOAD, CPU), profiles=SCHEMA.profiles[::-1])
    forecaster = tiny_forecaster(seed=2, schema=turned)
    with_statistics_of(source, forecaster, [1, 0, 2])
    start_from(source, forecaster)
    batch = strangers()
    profile = torch.full_like(batch.static_codes[:, 1], turned.profile_code("database"))
    mirrored = batch._replace(
        past=batch.past[..., [1, 0, 2]],
        earlier=batch.earlier[..., [1, 0]],
        static_codes=torch.stack([batch.static_codes[:, 0], profile], dim=1),
    )
    expected = source.forecast(batch)[:, :, [1, 0]]
    torch.testing.assert_close(forecaster.forecast(mirrored), expected, rtol=1e-4, atol=1e-3)


def test_what_has_no_namesake_keeps_fresh_weights() -> None:
    """A new target and profile: their rows are as drawn, all others the source's."""
    source = tiny_forecaster(seed=1)
    wider = replace(
        SCHEMA,
        targets=(CPU, Metric("queue"), LOAD),
        profiles=("database", "mainframe", "web_api"),
    )
    forecaster, fresh = (tiny_forecaster(seed=2, schema=wider) for _ in range(2))
    (line,) = start_from(source, forecaster)
    given, ours, drawn = (dict(f.network.named_parameters()) for f in (source, forecaster, fresh))
    for name in ("past_embedding.weight", "past_selection.variable_gate"):
        assert torch.equal(ours[name][1], drawn[name][1])
        assert torch.equal(ours[name][[0, 2]], given[name][[0, 1]])
    Q = len(SCHEMA.quantiles)
    head = "head.linear.bias"
    assert torch.equal(ours[head][Q : 2 * Q], drawn[head][Q : 2 * Q])
    assert torch.equal(ours[head][2 * Q :], given[head][Q:])
    profiles = "category_embeddings.1.weight"
    assert torch.equal(ours[profiles], given[profiles][[0, 1, 0, 2]]), "a new one: as unknown"
    assert "forecast 2 of 3 (queue new)" in line and "profiles 2 of 3 (mainframe new)" in line
    assert forecaster.forecast(random_batch(schema=wider)).isfinite().all()


def test_what_was_only_observed_can_become_a_target() -> None:
    """As an input it carries over, as an output it is fresh."""
    source = tiny_forecaster(seed=1)
    schema = replace(SCHEMA, targets=(CPU, TEMPERATURE), observed=(LOAD,))
    forecaster, fresh = (tiny_forecaster(seed=2, schema=schema) for _ in range(2))
    start_from(source, forecaster)
    ours, given = forecaster.network, source.network
    assert torch.equal(ours.past_embedding.bias[1], given.past_embedding.bias[2])
    Q = len(SCHEMA.quantiles)
    assert torch.equal(ours.head.linear.bias[Q:], fresh.network.head.linear.bias[Q:])


def test_ticks_of_another_length_are_refused() -> None:
    forecaster = tiny_forecaster(schema=replace(SCHEMA, step_seconds=1800))
    with pytest.raises(ValueError, match="init has step_seconds = 3600, this table 1800"):
        start_from(tiny_forecaster(), forecaster)


def test_a_source_that_saw_the_validation_is_told_of() -> None:
    source, forecaster = tiny_forecaster(seed=1), tiny_forecaster(seed=2)
    source.facts, forecaster.facts = TrainingFacts(("a", "b"), 90), TrainingFacts(("b",), 80)
    assert "1 servers have names it knows, such as b" in start_from(source, forecaster)[1]
    source.facts = TrainingFacts(("a", "b"), 80)
    assert len(start_from(source, forecaster)) == 1


CONFIG = TrainConfig(**SMALL_TRAINING)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "fleet.parquet"
    small_table(seed=3).to_parquet(path)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run on another fleet, one of whose columns the table has not."""
    folder = tmp_path_factory.mktemp("source")
    small_table().rename(columns={"swap_percent": "io_wait"}).to_parquet(folder / "other.parquet")
    config = replace(CONFIG, epochs=1)
    return TFTTrainer(config, say=lambda _: None).train(folder / "other.parquet", folder / "run")


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_size", 16), ("embedding_size", 8), ("quantiles", (0.1, 0.5, 0.9))]
)
def test_another_size_is_refused_by_name_before_the_table_is_read(
    source: Path, tmp_path: Path, key: str, value: Any
) -> None:
    config = replace(CONFIG, init=str(source), **{key: value})
    with pytest.raises(ValueError, match=f"{key} = .*, this training {key} = "):
        TFTTrainer(config, say=lambda _: None).train(tmp_path / "none.csv", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_source_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no forecaster.json"):
        load_source(replace(CONFIG, init=str(tmp_path)))
    assert load_source(CONFIG) is None


def test_training_starts_from_the_source_and_resumes_without_it(
    source: Path, table: Path, tmp_path: Path
) -> None:
    """A model folder copied out of a run will do, and may be gone once training has begun."""
    shutil.copytree(source / "model", tmp_path / "model")
    options = ["train", "--data", str(table), "--init", str(tmp_path / "model"), "--epochs", "1"]
    for key, value in SMALL_TRAINING.items():
        text = ",".join(value) if isinstance(value, tuple) else value
        options += [] if key == "epochs" else ["--set", f"{key}={text}"]
    run = ["--run-dir", str(tmp_path / "run")]
    begun = CliRunner().invoke(cli, [*options, *run])
    assert begun.exit_code == 0, begun.output
    assert "past 4 of 5 (swap_percent new)" in begun.output
    assert json.loads((tmp_path / "run" / "training_info.json").read_text())["init"] == "model"
    shutil.rmtree(tmp_path / "model")
    resume = ["train", "--resume", *run, "--epochs", "2"]
    resumed = CliRunner().invoke(cli, resume)
    assert resumed.exit_code == 0, resumed.output
    assert "resuming at epoch 2" in resumed.output
    fresh = CliRunner().invoke(cli, [*options, "--run-dir", str(tmp_path / "other")])
    assert fresh.exit_code == 2 and "no forecaster.json" in fresh.output


def test_the_source_is_of_use_before_any_training(
    source: Path, table: Path, tmp_path: Path
) -> None:
    """On a fleet of the same kind its validation loss is below that of fresh weights."""
    losses = []
    for name, init in (("scratch", None), ("init", str(source))):
        config = replace(CONFIG, init=init, epochs=1, random_seed=7)
        run = TFTTrainer(config, say=lambda _: None).train(table, tmp_path / name)
        info = json.loads((run / "training_info.json").read_text())
        losses.append(info["convergence"]["first_val_loss"])
    assert losses[1] < losses[0]


def test_a_bundle_of_the_source_is_not_changed(source: Path, tmp_path: Path) -> None:
    forecaster = load_forecaster(source / "model")
    before = {name: tensor.clone() for name, tensor in forecaster.state_dict().items()}
    start_from(forecaster, load_forecaster(source / "model"))
    save_forecaster(forecaster, tmp_path / "again")
    after = load_forecaster(tmp_path / "again").state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
