"""One step is what it says: accumulation, clipping, precision, skipped steps, stopping."""

import copy
import json
import math
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tqdm import tqdm

from data.fleet import Fleet
from data.loaders import EvalLoader, TrainLoader
from data.sampling import WindowOrder
from data.splits import split_by_time
from data.windows import WindowStore
from tests.builders import SCHEMA, random_batch, small_fleet, tiny_forecaster, without_dropout
from tft.batch import WindowBatch
from tft.bundle import load_forecaster
from tft.forecaster import Forecaster
from train.config import TrainConfig
from train.device import grad_scaler
from train.loop import FitResult, fit
from train.run_dir import RunDirectory
from train.signals import Stopped, StopRequest
from train.state import TrainState
from train.step import grouped, make_optimizer, train_step
from train.validate import Validation

CPU = torch.device("cpu")
CONFIG = TrainConfig(batch_size=16, epochs=2, learning_rate=0.01)


def weights(forecaster: Forecaster) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in forecaster.parameters()])


def one_step(forecaster: Forecaster, group: list[WindowBatch], config: TrainConfig) -> torch.Tensor:
    optimizer, scaler = make_optimizer(forecaster, config), grad_scaler(config.precision, CPU)
    assert train_step(forecaster, group, optimizer, scaler, config).applied
    return weights(forecaster)


def loaders(
    fleet=None, seed: int = 1, per_epoch: int | None = 64
) -> tuple[TrainLoader, EvalLoader]:
    fleet = fleet or rhythmic_fleet()
    split = split_by_time(fleet, SCHEMA, 0.2)
    store = WindowStore(fleet, SCHEMA)
    order = WindowOrder(len(split.train), seed, per_epoch)
    windows = np.arange(len(split.validation))
    return (
        TrainLoader(store, split.train, order, CONFIG.batch_size),
        EvalLoader(store, split.validation, windows, 16),
    )


def rhythmic_fleet() -> Fleet:
    """A fleet whose next hours follow from the last: something to learn."""
    fleet = small_fleet((160, 170, 180))
    turn = np.arange(len(fleet.values))[:, None] / 12 * 2 * np.pi
    fleet.values[:] = 25 + 15 * np.sin(turn + np.arange(3)) + fleet.values / 50
    return fleet


def run_fit(
    path: Path, config: TrainConfig = CONFIG, forecaster: Forecaster | None = None, **kw: float
) -> tuple[FitResult, Forecaster]:
    torch.manual_seed(0)
    forecaster = forecaster or tiny_forecaster()
    run = RunDirectory(path, config)
    try:
        return fit(TrainState(forecaster, config), *loaders(), config, run, **kw), forecaster
    finally:
        run.close()


def records(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def judged(loss: float) -> Validation:
    return Validation(loss, {}, {})


def test_accumulated_steps_equal_one_big_batch() -> None:
    """In float64, with a ragged last part and a different share of missing ticks in each part."""
    batch = random_batch(B=11)
    future = batch.future.clone()
    future[:4][torch.rand(4, 6, 2) < 0.9] = torch.nan
    future[4:6] = torch.nan
    as_double = [t.double() if t.is_floating_point() else t for t in batch._replace(future=future)]
    batch = WindowBatch(*as_double)
    parts = [WindowBatch(*(t[s] for t in batch)) for s in (slice(0, 4), slice(4, 6), slice(6, 11))]
    config = replace(CONFIG, weight_decay=0.1)
    whole = one_step(tiny_forecaster().double(), [batch], config)
    split = one_step(tiny_forecaster().double(), parts, config)
    assert not torch.equal(whole, weights(tiny_forecaster().double()))
    torch.testing.assert_close(split, whole, rtol=1e-12, atol=1e-14)


def test_the_last_group_of_an_epoch_is_what_is_left() -> None:
    config = replace(CONFIG, accumulate_grad_batches=4)
    batches = iter([random_batch(seed=seed) for seed in range(10)])
    assert [len(group) for group in grouped(batches, config)] == [4, 4, 2]


def test_gradients_are_clipped_after_unscaling() -> None:
    """With fp16's loss scale still on them, every gradient would look too long."""
    for precision in ("fp32", "fp16"):
        config = replace(CONFIG, precision=precision, gradient_clip_val=0.05)
        forecaster = tiny_forecaster()
        optimizer, scaler = make_optimizer(forecaster, config), grad_scaler(precision, CPU)
        clipped = {}

        def remember(optimizer, *_, clipped=clipped):
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
            clipped["norm"] = float(torch.cat([g.flatten() for g in gradients]).norm())

        optimizer.register_step_pre_hook(remember)
        result = train_step(forecaster, [random_batch()], optimizer, scaler, config)
        assert 0.05 < float(result.gradient_norm) < 50
        assert clipped["norm"] == pytest.approx(0.05, rel=1e-3)


def test_a_step_without_a_finite_gradient_changes_no_weight() -> None:
    forecaster = tiny_forecaster()
    with torch.no_grad():
        forecaster.network.head.linear.bias[0] = torch.nan
    before = weights(forecaster).clone()
    optimizer, scaler = make_optimizer(forecaster, CONFIG), grad_scaler("fp32", CPU)
    result = train_step(forecaster, [random_batch()], optimizer, scaler, CONFIG)
    assert not result.applied
    assert torch.equal(weights(forecaster).nan_to_num(), before.nan_to_num())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_three_steps_without_a_finite_gradient_stop_training(
    tmp_path: Path, precision: str
) -> None:
    """In fp16 too, whose scale there is nothing to look for where the loss itself is not finite."""
    forecaster = tiny_forecaster()
    with torch.no_grad():
        forecaster.network.head.linear.bias[0] = torch.nan
    with pytest.raises(FloatingPointError, match="epoch 1, step 3: 3 steps in a row.*0.01") as info:
        run_fit(tmp_path / "run", replace(CONFIG, precision=precision), forecaster)
    assert not (tmp_path / "run" / "model").exists()
    lines = (tmp_path / "run" / "skipped.jsonl").read_text().splitlines()
    skipped = [json.loads(line) for line in lines]
    assert [line["step_in_epoch"] for line in skipped] == [1, 2, 3]
    train_loader, _ = loaders()
    assert [line["windows"] for line in skipped] == [train_loader.names(0, n) for n in range(3)]
    assert f"{skipped[2]['windows'][0]}, " in str(info.value)


def test_a_bad_batch_is_skipped_named_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two in a row, one good, two more: no weight changes by them, and training goes on."""
    bad = {2, 3, 5, 6}
    seen: list[torch.Tensor] = []

    class Poisoned(TrainLoader):
        def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[WindowBatch]:
            for number, batch in enumerate(super().epoch(epoch, first_batch), 1):
                seen.append(weights(forecaster).clone())
                infinite = torch.full_like(batch.known, torch.inf)
                yield batch._replace(known=infinite) if number in bad else batch

    torch.manual_seed(0)
    forecaster = tiny_forecaster()
    train_loader, validation_loader = loaders(per_epoch=112)
    store, index, order = train_loader.store, train_loader.index, train_loader.order
    config = replace(CONFIG, epochs=1)
    run = RunDirectory(tmp_path / "run", config)
    poisoned = Poisoned(store, index, order, CONFIG.batch_size)
    result = fit(TrainState(forecaster, config), poisoned, validation_loader, config, run)
    run.close()
    seen.append(weights(forecaster))
    unchanged = {n for n in range(1, 8) if torch.equal(seen[n - 1], seen[n])}
    assert unchanged == bad and result.skipped_steps == 4
    assert records(tmp_path / "run")[0]["skipped_steps"] == 4
    assert len((tmp_path / "run" / "skipped.jsonl").read_text().splitlines()) == 4
    said = capsys.readouterr().err
    assert f"step 2: no finite gradient, no weight changed; windows {order_name(poisoned)}" in said


def order_name(loader: TrainLoader) -> str:
    """Return the name of the first window of the second batch."""
    return loader.names(0, 1)[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_the_loss_falls(tmp_path: Path, precision: str) -> None:
    config = replace(CONFIG, precision=precision, epochs=8, gradient_clip_val=1.0)
    result, _ = run_fit(tmp_path / "run", config)
    losses = [record["val_loss"] for record in records(tmp_path / "run")]
    assert result.best_validation_loss == min(losses) < 0.8 * losses[0]


def test_checkpoints_are_of_every_so_many_epochs_the_best_and_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses, saved = iter([0.9, 0.1, 0.2, 0.3, 0.4, 0.5]), []
    monkeypatch.setattr("train.loop.validate", lambda *_: judged(next(losses)))
    save = RunDirectory.save_checkpoint

    def noting(run: RunDirectory, state: TrainState, loss: float | None = None) -> None:
        saved.append(state.epoch - 1)
        save(run, state, loss)

    monkeypatch.setattr(RunDirectory, "save_checkpoint", noting)
    run_fit(tmp_path / "run", replace(CONFIG, epochs=5, checkpoint_epochs=2))
    assert saved == [1, 2, 4, 5]


def test_a_terminal_shows_a_bar_and_a_line_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("train.progress.tqdm", partial(tqdm, mininterval=0))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run_fit(tmp_path / "run")
    drawn = capsys.readouterr().err.split("\r")
    steps = [each for each in drawn if "| 3/4" in each]
    assert re.search(r"epoch 2/2 of 64 .*% of all, best 0.\d+, elapsed 0:\d\d, at most", steps[1])
    lines = [line for each in drawn for line in each.splitlines() if "validation" in line]
    assert [line.split(" of ")[0] for line in lines[1:]] == ["epoch 1/2", "epoch 2/2"]
    assert re.fullmatch(r"before training: validation 0\.\d{4}", lines[0])
    assert "100% of all" in lines[2] and "at most 0:00 left" in lines[2]


def test_the_same_seed_trains_the_same_weights(tmp_path: Path) -> None:
    _, one = run_fit(tmp_path / "one")
    _, two = run_fit(tmp_path / "two")
    assert torch.equal(weights(one), weights(two))


def test_the_bundle_is_the_best_epochs_and_not_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reference system served the last epoch's weights whatever they were worth."""
    config = replace(CONFIG, ema_decay=None)
    _, after_two = run_fit(tmp_path / "two", replace(config, epochs=2))
    losses = iter([0.9, 0.5, 0.2, 0.9, 0.4])
    monkeypatch.setattr("train.loop.validate", lambda *_: judged(next(losses)))
    result, after_four = run_fit(tmp_path / "four", replace(config, epochs=4))
    assert (result.best_epoch, result.best_validation_loss) == (2, 0.2)
    best = load_forecaster(tmp_path / "four" / "model")
    assert torch.equal(weights(best), weights(after_two))
    assert not torch.equal(weights(best), weights(after_four))


def test_what_training_starts_from_is_kept_where_no_epoch_is_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a day of data every window tells of the same hours, and what they teach is wrong."""
    losses = iter([0.3, 0.5, 0.6])
    monkeypatch.setattr("train.loop.validate", lambda *_: judged(next(losses)))
    forecaster = tiny_forecaster()
    start = weights(forecaster)
    result, trained = run_fit(tmp_path / "run", CONFIG, forecaster)
    assert (result.best_epoch, result.best_validation_loss) == (0, 0.3)
    assert result.first_validation_loss == 0.3 and result.epochs == 2
    assert torch.equal(weights(load_forecaster(tmp_path / "run" / "model")), start)
    assert not torch.equal(weights(trained), start)


def test_before_an_epoch_has_ended_nothing_is_there_to_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights nobody trained would be forecast with, without a word."""
    stop = StopRequest()

    def stopping(*arguments):
        stop.signal = signal.SIGTERM
        return train_step(*arguments)

    monkeypatch.setattr("train.loop.train_step", stopping)
    run = RunDirectory(tmp_path / "run", CONFIG)
    with pytest.raises(Stopped):
        fit(TrainState(tiny_forecaster(), CONFIG), *loaders(), CONFIG, run, stop)
    run.close()
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("last", [0.5, math.nan])
def test_a_last_epoch_that_is_not_finite_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: float
) -> None:
    losses = iter([0.3, 0.5, last])
    monkeypatch.setattr("train.loop.validate", lambda *_: judged(next(losses)))
    result, _ = run_fit(tmp_path / "run")
    assert (result.best_epoch, result.lowest_validation_loss) == (0, 0.5)


def test_no_finite_epoch_is_a_failure_whatever_training_started_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([0.3, math.nan, math.nan])
    monkeypatch.setattr("train.loop.validate", lambda *_: judged(next(losses)))
    with pytest.raises(FloatingPointError, match="no epoch had a finite validation loss"):
        run_fit(tmp_path / "run")


def test_a_start_that_is_not_finite_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([math.nan, 0.5, 0.6])
    monkeypatch.setattr("train.loop.validate", lambda *_: judged(next(losses)))
    result, _ = run_fit(tmp_path / "run")
    assert (result.best_epoch, result.best_validation_loss) == (1, 0.5)


def test_metrics_have_the_promised_keys_and_true_numbers(tmp_path: Path) -> None:
    result, _ = run_fit(tmp_path / "run")
    first, second = records(tmp_path / "run")
    assert list(first)[:6] == [
        "epoch", "train_loss", "val_loss", "learning_rate", "time_seconds", "gpu_memory_mb",
    ]  # fmt: skip
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert first["windows"] == 64
    assert second["val_loss"] == result.final_validation_loss
    assert second["train_loss"] == result.final_train_loss
    assert first["gpu_memory_mb"] == 0.0 and first["memory_mb"] > 50


def test_the_training_loss_is_the_epochs_mean_and_not_the_last_batchs(tmp_path: Path) -> None:
    """With a learning rate of almost nothing it equals the loss of the epoch's windows."""
    config = replace(CONFIG, learning_rate=1e-8, epochs=1)
    forecaster = tiny_forecaster()
    without_dropout(forecaster.network)
    result, _ = run_fit(tmp_path / "run", config, copy.deepcopy(forecaster))
    train_loader, _ = loaders()
    sums = [forecaster(batch) for batch in train_loader.epoch(0)]
    mean = sum(float(s.total.sum().detach()) for s in sums) / sum(
        int(s.observed.sum()) for s in sums
    )
    assert result.final_train_loss == pytest.approx(mean, rel=1e-3)
    assert float(sums[-1].mean().detach()) != pytest.approx(mean, rel=1e-3)


def test_early_stopping_and_the_plateau(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = iter([0.9, 0.5, 0.4, *[0.45] * 20])
    monkeypatch.setattr("train.loop.validate", lambda *_: judged(next(losses)))
    config = replace(CONFIG, epochs=30, early_stopping_patience=5, plateau_patience=2)
    result, _ = run_fit(tmp_path / "run", config)
    assert result.stopped_early and (result.best_epoch, result.epochs) == (2, 7)
    rates = [record["learning_rate"] for record in records(tmp_path / "run")]
    assert rates == [0.01] * 4 + [0.005] * 2 + [0.0025]


def test_a_losing_scale_is_not_a_failing_training(tmp_path: Path) -> None:
    """fp16 finds its loss scale by overflowing a few times: that must not stop it."""
    forecaster = tiny_forecaster()
    with torch.no_grad():
        forecaster.network.head.linear.weight *= 300
    config = replace(CONFIG, precision="fp16", epochs=3)
    result, _ = run_fit(tmp_path / "run", config, forecaster)
    assert 3 <= result.skipped_steps < 12
    assert math.isfinite(result.best_validation_loss)


def test_no_epoch_is_begun_whose_validation_would_end_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock on which a step takes 0.1 s and a validation 5 s; an epoch has 4 steps."""
    now = [0.0]

    def step(*arguments):
        now[0] += 0.1
        return train_step(*arguments)

    def validation(*_):
        now[0] += 5
        return judged(0.5)

    monkeypatch.setattr("train.loop.time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr("train.loop.train_step", step)
    monkeypatch.setattr("train.loop.validate", validation)
    for deadline, epochs in ((17, 2), (15.9, 2), (15.7, 2), (15.3, 1), (10.2, 1)):
        now[0] = 0.0
        result, _ = run_fit(tmp_path / str(deadline), replace(CONFIG, epochs=9), deadline=deadline)
        assert result.out_of_time and result.epochs == epochs
        assert now[0] <= deadline + 0.1  # at most the step that was under way


def test_time_up_still_validates_and_saves(tmp_path: Path) -> None:
    result, _ = run_fit(tmp_path / "run", deadline=time.monotonic() - 1)
    assert result.out_of_time and result.epochs == 1 and not result.stopped_early
    (record,) = records(tmp_path / "run")
    assert record["windows"] == CONFIG.batch_size < 64
    assert math.isfinite(load_forecaster(tmp_path / "run" / "model").forecast(random_batch()).sum())


def test_weight_decay_spares_biases_and_norms() -> None:
    forecaster = tiny_forecaster()
    optimizer = make_optimizer(forecaster, replace(CONFIG, weight_decay=0.3))
    decayed = {id(p) for p in optimizer.param_groups[0]["params"]}
    named = dict(forecaster.named_parameters())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(named)
    for name, parameter in named.items():
        assert (id(parameter) in decayed) == ("bias" not in name and "norm" not in name)
