"""From a table to a run directory, from Python."""

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from data.forecasts import latest_origins, write_forecasts
from data.reading import TableSpec, read_fleet
from data.splits import spread_evenly
from data.windows import WindowStore, index_windows
from tests.builders import SMALL_TRAINING, small_table
from tft.bundle import load_forecaster, save_forecaster
from tft.forecaster import Forecaster
from train import TFTTrainer, TrainConfig
from train.signals import Stopped, StopRequest
from train.validate import Validation

CONFIG = TrainConfig(**SMALL_TRAINING)
INFO_KEYS = {
    "trained_at", "epochs", "data_hours", "num_servers", "final_train_loss", "final_val_loss",
    "quantile_loss", "training_time_hours", "model_parameters", "convergence", "early_stopping",
}  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "fleet.parquet"
    small_table().to_parquet(path)
    return path


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TFTTrainer(CONFIG, say=quiet).train(table, tmp_path_factory.mktemp("runs") / "run")


def test_the_run_directory_holds_what_is_promised(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names == {
        "config.json", "data.txt", "metrics.jsonl", "training_info.json", "model", "checkpoints",
        "logs", ".lock",
    }  # fmt: skip
    info = json.loads((run / "training_info.json").read_text())
    assert info.keys() >= INFO_KEYS
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert info["epochs"] == len(metrics) == 2
    assert info["quantile_loss"] == min(line["val_loss"] for line in metrics)
    assert info["final_val_loss"] == metrics[-1]["val_loss"]
    assert info["num_servers"] == 3 and info["data_hours"] == 30
    # What is judged must be told from what chose the best epoch: the last fifth of the time span.
    assert info["trained_hours"] == 24
    assert info["validated_from"] == "2026-01-06T00:00:00+00:00"
    assert info["validated_until"] == "2026-01-06T06:00:00+00:00"
    assert info["sampled_epochs"] is True and info["windows_per_epoch"] == 96
    forecaster = load_forecaster(run / "model")
    assert info["model_parameters"] == sum(p.numel() for p in forecaster.parameters())
    assert TrainConfig.from_dict(json.loads((run / "config.json").read_text())["train"]) == CONFIG
    assert any((run / "logs").iterdir())


def test_roles_come_from_the_table(run: Path) -> None:
    schema = load_forecaster(run / "model").schema
    assert schema.target_names == ("cpu_percent", "load_average")
    assert [metric.name for metric in schema.observed] == ["swap_percent"]
    assert schema.profiles == ("database", "web_api")
    assert (schema.targets[0].lower, schema.targets[0].upper) == (0, 100)
    assert (schema.targets[1].lower, schema.targets[1].upper) == (0, None)


def test_the_bundle_knows_where_training_ended(run: Path, table: Path) -> None:
    forecaster = load_forecaster(run / "model")
    fleet = read_fleet(table, TableSpec(), forecaster.schema).fleet
    assert forecaster.facts.servers == fleet.servers
    assert forecaster.facts.end_tick == fleet.end_tick - round(0.2 * 30 * 12)


def test_the_best_epochs_loss_is_that_of_the_bundle(run: Path, table: Path) -> None:
    """What training_info claims can be measured again from what is served."""
    forecaster = load_forecaster(run / "model")
    fleet = read_fleet(table, TableSpec(), forecaster.schema).fleet
    index = index_windows(fleet, forecaster.schema, forecaster.facts.end_tick)
    chosen = index.lookup(spread_evenly(len(index), 32))
    loss = forecaster(WindowStore(fleet, forecaster.schema).gather(*chosen)).mean()
    info = json.loads((run / "training_info.json").read_text())
    assert float(loss.detach()) == pytest.approx(info["quantile_loss"], rel=1e-4)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_same_seed_trains_the_same_bundle(
    run: Path, table: Path, tmp_path: Path, num_workers: int
) -> None:
    """Also with other numbers of loader workers: they change who gathers, not what."""
    config = replace(CONFIG, num_workers=num_workers)
    again = TFTTrainer(config, say=quiet).train(table, tmp_path / "again")
    one, two = (load_forecaster(path / "model").state_dict() for path in (run, again))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_seed_trains_another(run: Path, table: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, random_seed=1, epochs=1)
    other = TFTTrainer(config, say=quiet).train(table, tmp_path / "other")
    one, two = (load_forecaster(path / "model").state_dict() for path in (run, other))
    assert not torch.equal(one["network.head.linear.weight"], two["network.head.linear.weight"])


def test_a_model_for_one_metric_observes_the_others(table: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, multi_target=False, epochs=1)
    path = TFTTrainer(config, say=quiet).train(table, tmp_path / "run")
    schema = load_forecaster(path / "model").schema
    assert schema.target_names == ("cpu_percent",)
    assert [metric.name for metric in schema.observed] == ["load_average", "swap_percent"]


@pytest.mark.parametrize("by", ["argument", "key"])
def test_find_lr_starts_from_the_suggestion(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    trainer = TFTTrainer(replace(CONFIG, epochs=1, auto_lr_find=by == "key"), say=quiet)
    suggestion = trainer.find_lr(table).suggestion
    path = trainer.train(table, tmp_path / "run", find_lr=by == "argument")
    info = json.loads((path / "training_info.json").read_text())
    assert info["learning_rate"] == suggestion != CONFIG.learning_rate


def test_a_new_servers_forecast_does_not_depend_on_its_name(run: Path, tmp_path: Path) -> None:
    forecaster = load_forecaster(run / "model")
    forecasts = []
    for name in ("new-a", "new-b", "server0"):
        small_table(servers=1).assign(server_name=name).to_parquet(tmp_path / f"{name}.parquet")
        origins_of = read_fleet(tmp_path / f"{name}.parquet", TableSpec(), forecaster.schema).fleet
        write_forecasts(
            forecaster, origins_of, latest_origins(origins_of, forecaster.schema),
            tmp_path / f"{name}.csv", (0.5,),
        )  # fmt: skip
        forecasts.append(pd.read_csv(tmp_path / f"{name}.csv")["q0.5"])
    assert forecasts[0].equals(forecasts[1])
    assert not forecasts[0].equals(forecasts[2])  # a server it knows


def test_a_run_is_never_overwritten(run: Path, table: Path) -> None:
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match="not empty; go on with --resume"):
        TFTTrainer(CONFIG, say=quiet).train(table, run)
    assert (run / "metrics.jsonl").read_bytes() == before


def test_a_table_that_cannot_be_read_leaves_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file"):
        TFTTrainer(CONFIG, say=quiet).train(tmp_path / "none.csv", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_day_of_data_is_enough(tmp_path: Path) -> None:
    """24 hours hold no window of 288 + 96 ticks: histories are short, padded and masked."""
    small_table(hours=24).to_csv(tmp_path / "day.csv", index=False)
    config = replace(
        CONFIG, context_length=288, min_context_length=72, prediction_horizon=96, epochs=1
    )
    path = TFTTrainer(config, say=quiet).train(tmp_path / "day.csv", tmp_path / "run")
    assert json.loads((path / "training_info.json").read_text())["train_windows"] == 3 * 25


def bundle(run: Path) -> torch.Tensor:
    state = load_forecaster(run / "model").state_dict()
    return torch.cat([tensor.flatten().float() for tensor in state.values()])


def test_deterministic_kernels_train_the_same_on_a_cpu(
    run: Path, table: Path, tmp_path: Path
) -> None:
    config = replace(CONFIG, deterministic=True)
    again = TFTTrainer(config, say=quiet).train(table, tmp_path / "run")
    assert torch.equal(bundle(run), bundle(again))


def test_a_server_held_out_is_new_to_the_forecaster(table: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, validation_servers=("server1",), epochs=1)
    run = TFTTrainer(config, say=quiet).train(table, tmp_path / "run")
    forecaster = load_forecaster(run / "model")
    assert forecaster.facts.servers == ("server0", "server2")
    assert forecaster.schema.profiles == ("web_api",), "server1 was the only database"
    info = json.loads((run / "training_info.json").read_text())
    assert info["validation_servers"] == ["server1"]


def test_an_explicit_checkpoint(run: Path, table: Path, tmp_path: Path) -> None:
    """It trains on from that one, though there is a newer one; a damaged one is an error."""
    shutil.copytree(run, tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    first, _ = sorted(folder.glob("step-*.pt"))
    said: list[str] = []
    trainer = TFTTrainer(CONFIG, say=said.append)
    trainer.train(table, tmp_path / "run", resume=True, checkpoint=first)
    assert f"resuming at epoch 2, step 6, from {first.name}" in said
    assert torch.equal(bundle(run), bundle(tmp_path / "run"))
    *_, last = sorted(folder.glob("step-*.pt"))
    last.write_bytes(last.read_bytes()[:-1])
    with pytest.raises(ValueError, match="damaged"):
        trainer.train(table, tmp_path / "run", resume=True, checkpoint=last)


def test_going_back_to_a_checkpoint_serves_its_weights(
    run: Path, table: Path, tmp_path: Path
) -> None:
    """Not those of a later epoch, which is forgotten."""
    shutil.copytree(run, tmp_path / "run")
    first, _ = sorted((tmp_path / "run" / "checkpoints").glob("step-*.pt"))
    once = TFTTrainer(replace(CONFIG, epochs=1), say=quiet)
    once.train(table, tmp_path / "run", resume=True, checkpoint=first)
    alone = once.train(table, tmp_path / "alone")
    assert torch.equal(bundle(alone), bundle(tmp_path / "run"))
    assert not torch.equal(bundle(alone), bundle(run))


def test_going_back_serves_what_was_best_by_then(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of these losses the last is the best, but up to the third it was the second."""

    def train(name: str, *losses: float, **how: Any) -> Path:
        start = () if how.get("resume") else (0.9,)
        told = iter((*start, *losses))

        def validate(forecaster: Forecaster, *_: Any) -> Validation:
            forecaster.eval()
            return Validation(next(told), {}, {})

        monkeypatch.setattr("train.loop.validate", validate)
        trainer = TFTTrainer(replace(CONFIG, epochs=how.pop("epochs", len(losses))), say=quiet)
        return trainer.train(table, tmp_path / name, **how)

    two, four = train("two", 0.5, 0.3), train("four", 0.5, 0.3, 0.35, 0.2)
    (third,) = (four / "checkpoints").glob("*-val-0.35-*")
    shutil.copy(third, tmp_path)
    train("four", epochs=3, resume=True, checkpoint=third)
    assert torch.equal(bundle(four), bundle(two))
    info = json.loads((four / "training_info.json").read_text())
    assert info["convergence"]["best_epoch"] == 2 and info["epochs"] == 3

    elsewhere = train("elsewhere", epochs=3, resume=True, checkpoint=tmp_path / third.name)
    assert torch.equal(bundle(elsewhere), bundle(two)), "from the one file alone"
    behind = train("behind", 0.9)
    train("behind", epochs=3, resume=True, checkpoint=tmp_path / third.name)
    assert torch.equal(bundle(behind), bundle(two)), "a run that had not come so far"


def test_a_resume_that_is_refused_changes_nothing(run: Path, table: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    other = small_table(seed=5)
    other.to_parquet(tmp_path / "other.parquet")
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    with pytest.raises(ValueError, match="trained on other data"):
        TFTTrainer(CONFIG, say=quiet).train(tmp_path / "other.parquet", tmp_path / "run",
                                            resume=True)  # fmt: skip
    assert {path: path.read_bytes() for path in before} == before


def test_a_run_of_a_version_without_a_key_is_named(run: Path, table: Path, tmp_path: Path) -> None:
    """What it was trained with is not what the key is by default now."""
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    del config["train"]["calendar_dropout"]
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="another version .*no calendar_dropout.* another --run-"):
        TFTTrainer(CONFIG, say=quiet).train(table, tmp_path / "run", resume=True)


def test_a_run_of_another_version_is_named(run: Path, table: Path, tmp_path: Path) -> None:
    """Its configuration has a key that there is no more."""
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["train"]["schedule"] = "cosine"
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"another version .*'schedule'.* another --run-dir"):
        TFTTrainer(CONFIG).train(table, tmp_path / "run", resume=True)


def test_the_time_of_a_resumed_run_is_all_of_it(run: Path, table: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    config = replace(CONFIG, epochs=3)
    TFTTrainer(config, say=quiet).train(table, tmp_path / "run", resume=True)
    first, both = (
        json.loads((path / "training_info.json").read_text())["training_time_hours"]
        for path in (run, tmp_path / "run")
    )
    assert both > first


def test_compiled_and_plain_networks_load_each_others_weights(
    run: Path, table: Path, tmp_path: Path
) -> None:
    """No `_orig_mod.` in the names; compiled by the tracer alone, which needs no minute."""
    plain = load_forecaster(run / "model")
    compiled = load_forecaster(run / "model")
    compiled.network.compile(backend="eager")
    assert plain.state_dict().keys() == compiled.state_dict().keys()
    fleet = read_fleet(table, TableSpec(), plain.schema).fleet
    index = index_windows(fleet, plain.schema)
    batch = WindowStore(fleet, plain.schema).gather(*index.lookup(spread_evenly(len(index), 4)))
    torch.testing.assert_close(compiled.forecast(batch), plain.forecast(batch))
    with torch.no_grad():
        compiled.network.head.linear.bias += 1.0
    save_forecaster(compiled, tmp_path / "model")
    loaded = load_forecaster(tmp_path / "model")
    torch.testing.assert_close(loaded.forecast(batch), compiled.forecast(batch))
    plain.load_state_dict(compiled.state_dict())
    compiled.load_state_dict(plain.state_dict())


def test_a_table_that_overflows_is_named_and_nothing_is_served(tmp_path: Path) -> None:
    """Values near float32's largest have no finite spread: whoever wrote them must be found."""
    rows = small_table()
    rows.loc[rows.index % 7 == 0, "load_average"] = 3e38
    rows.to_parquet(tmp_path / "huge.parquet")
    with pytest.raises(FloatingPointError, match="3 steps in a row.*windows server. at 2026-01"):
        TFTTrainer(CONFIG, say=quiet).train(tmp_path / "huge.parquet", tmp_path / "run")
    assert len((tmp_path / "run" / "skipped.jsonl").read_text().splitlines()) == 3
    assert not (tmp_path / "run" / "model").exists()


def test_a_rate_far_too_high_never_serves_what_is_not_finite(table: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, learning_rate=10.0, gradient_clip_val=1e6)
    run = TFTTrainer(config, say=quiet).train(table, tmp_path / "run")
    lines = (run / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["val_loss"] for line in lines]
    info = json.loads((run / "training_info.json").read_text())
    assert max(losses) > 5, "the rate was to spoil something"
    assert info["quantile_loss"] == min(info["convergence"]["first_val_loss"], *losses)
    assert bundle(run).isfinite().all()


def test_a_stop_is_heard_while_the_table_is_read(table: Path, tmp_path: Path) -> None:
    """Reading a huge fleet takes minutes, and there is nothing to save yet."""
    stop = StopRequest()
    stop.signal = signal.SIGTERM
    with pytest.raises(Stopped, match="go on with --resume"):
        TFTTrainer(CONFIG, say=quiet).train(table, tmp_path / "run", stop=stop)
    assert not (tmp_path / "run").exists()


def test_where_no_checkpoint_verifies_nothing_is_begun_anew(
    run: Path, table: Path, tmp_path: Path
) -> None:
    """They may be of another version, or restorable: starting over would remove them."""
    shutil.copytree(run, tmp_path / "run")
    files = sorted((tmp_path / "run" / "checkpoints").glob("step-*.pt"))
    for file in files:
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="no checkpoint there can be gone on from"):
        TFTTrainer(CONFIG, say=quiet).train(table, tmp_path / "run", resume=True)
    assert sorted((tmp_path / "run" / "checkpoints").glob("step-*.pt")) == files
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == (run / "metrics.jsonl").read_bytes()
