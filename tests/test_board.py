"""What training tells TensorBoard can be read back from the event file."""

import io
import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from data.windows import WindowStore, index_windows
from report.examples import Examples, choose_examples, mean_selection_weights
from tests.builders import SCHEMA, random_batch, small_fleet, tiny_forecaster
from tft.forecaster import Forecaster
from tft.schema import FeatureSchema, Metric
from train.board import NO_HPARAMS, Board
from train.config import TrainConfig
from train.record import EpochRecord
from train.run_dir import RunDirectory
from train.state import TrainState
from train.step import StepResult

RESULT = StepResult(torch.tensor(6.0), torch.tensor(4), torch.tensor(0.25), True)
RECORD = EpochRecord(
    epoch=3,
    train_loss=0.5,
    val_loss=0.25,
    learning_rate=0.125,
    time_seconds=8.0,
    gpu_memory_mb=0.0,
    windows=128,
    windows_per_second=16.0,
    best_val_loss=0.1875,
    skipped_steps=2,
    memory_mb=512.0,
    val_loss_by_metric={"cpu_percent": 0.375, "load_average": math.nan},
    coverage_by_metric={"cpu_percent": 0.75, "load_average": math.nan},
)


def read(folder: Path) -> EventAccumulator:
    """Read everything the folder's event files hold."""
    keep_all = {"scalars": 0, "images": 0}
    return EventAccumulator(str(folder), size_guidance=keep_all).Reload()


def points(events: EventAccumulator) -> dict[str, list[tuple[int, float]]]:
    """Return every curve as its (step, value) pairs."""
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def make_state(config: TrainConfig) -> TrainState:
    return TrainState(tiny_forecaster(), config)


def make_examples(schema: FeatureSchema = SCHEMA) -> Examples:
    fleet = small_fleet(schema=schema)
    return choose_examples(fleet, WindowStore(fleet, schema), index_windows(fleet, schema))


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(log_every_n_steps=2, learning_rate=0.5)


@pytest.fixture
def board(tmp_path: Path, config: TrainConfig) -> Iterator[Board]:
    board = Board(tmp_path, config)
    yield board
    board.close()


def test_a_step_is_drawn_one_in_so_many(board: Board, config: TrainConfig, tmp_path: Path) -> None:
    state = make_state(config)
    state.skipped_steps = 1
    for state.step in range(1, 6):
        board.step(state, RESULT, 100.0 + state.step)
    board.close()
    assert points(read(tmp_path)) == {
        "loss/train_step": [(2, 1.5), (4, 1.5)],
        "gradient/norm": [(2, 0.25), (4, 0.25)],
        "gradient/skipped_steps_step": [(2, 1.0), (4, 1.0)],
        "speed/windows_per_second_step": [(2, 102.0), (4, 104.0)],
    }


def test_a_step_that_is_not_drawn_does_not_wait_for_the_device(
    board: Board, config: TrainConfig
) -> None:
    """Reading a number of a tensor on a GPU makes the CPU wait for it, once a step."""
    state = make_state(config)
    state.step = 1
    unreadable = StepResult(*[torch.empty((), device="meta")] * 3, True)
    board.step(state, unreadable, 1.0)
    state.step = 2
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        board.step(state, unreadable, 1.0)


def test_the_loss_scale_is_drawn_where_there_is_one(tmp_path: Path) -> None:
    config = TrainConfig(log_every_n_steps=1, precision="fp16")
    state, board = make_state(config), Board(tmp_path, config)
    state.step = 1
    board.step(state, RESULT, 1.0)
    board.close()
    assert points(read(tmp_path))["gradient/loss_scale"] == [(1, state.scaler.get_scale())]


def test_an_epoch_is_drawn_as_soon_as_it_ends(board: Board, tmp_path: Path) -> None:
    """Nothing was observed of load_average, and no GPU was used: neither is a curve."""
    board.epoch(RECORD)
    assert points(read(tmp_path)) == {
        "loss/train": [(3, 0.5)],
        "loss/validation": [(3, 0.25)],
        "loss/best_validation": [(3, 0.1875)],
        "loss_by_metric/cpu_percent": [(3, 0.375)],
        "coverage_80/cpu_percent": [(3, 0.75)],
        "gradient/skipped_steps": [(3, 2.0)],
        "learning_rate": [(3, 0.125)],
        "speed/windows_per_second": [(3, 16.0)],
        "speed/epoch_seconds": [(3, 8.0)],
        "memory/resident_mb": [(3, 512.0)],
    }


def test_a_gpus_memory_is_drawn(board: Board, tmp_path: Path) -> None:
    board.epoch(replace(RECORD, gpu_memory_mb=2048.0))
    assert points(read(tmp_path))["memory/gpu_mb"] == [(3, 2048.0)]


def test_a_loss_that_is_not_finite_is_drawn(board: Board, tmp_path: Path) -> None:
    """TensorBoard marks it with a triangle: a gap would hide that training broke."""
    board.epoch(replace(RECORD, train_loss=math.nan, val_loss=math.inf))
    curves = points(read(tmp_path))
    assert math.isnan(curves["loss/train"][0][1])
    assert curves["loss/validation"] == [(3, math.inf)]


@pytest.mark.parametrize(("interval", "expected"), [("step", [(2, 0.5)]), ("epoch", [(3, 0.125)])])
def test_the_learning_rate_is_drawn_as_often_as_asked(
    tmp_path: Path, interval: str, expected: list[tuple[int, float]]
) -> None:
    """Steps and epochs on one axis would be a curve that runs back and forth."""
    config = TrainConfig(log_every_n_steps=2, learning_rate=0.5, lr_monitor_interval=interval)
    state, board = make_state(config), Board(tmp_path, config)
    state.step = 2
    board.step(state, RESULT, 1.0)
    board.epoch(RECORD)
    board.close()
    assert points(read(tmp_path))["learning_rate"] == expected


def images(events: EventAccumulator) -> dict[str, np.ndarray]:
    """Decode the latest picture of each tag, [height, width, 3]."""
    return {
        tag: np.asarray(Image.open(io.BytesIO(events.Images(tag)[-1].encoded_image_string)))
        for tag in events.Tags()["images"]
    }


def test_examples_are_pictures_of_forecasts_and_of_selection(board: Board, tmp_path: Path) -> None:
    forecaster, examples = tiny_forecaster(), make_examples()
    for epoch in (1, 2):
        board.examples(forecaster, examples, epoch)
    events = read(tmp_path)
    pictures = images(events)
    assert set(pictures) == {"forecasts/cpu_percent", "forecasts/load_average", "selection"}
    for tag, picture in pictures.items():
        assert [event.step for event in events.Images(tag)] == [1, 2]
        assert picture.shape[2] == 3 and picture.shape[1] > 800
        assert (picture != 255).any(-1).mean() > 0.02  # more than a title


@pytest.mark.parametrize("targets", [1, 10])
def test_examples_of_one_metric_and_of_many(board: Board, tmp_path: Path, targets: int) -> None:
    """Four metrics at most: ten would take as long as an epoch of a small run."""
    metrics = tuple(Metric(f"node_network_receive_bytes_total_eth{n}") for n in range(targets))
    schema = replace(SCHEMA, targets=metrics)
    examples = make_examples(schema)
    examples = examples._replace(servers=tuple(f"{name}.{'a' * 90}" for name in examples.servers))
    board.examples(tiny_forecaster(schema=schema), examples, 1)
    drawn = [tag for tag in images(read(tmp_path)) if tag.startswith("forecasts/")]
    assert drawn == [f"forecasts/{metric.name}" for metric in metrics[:4]]


def test_examples_change_nothing_of_training(board: Board) -> None:
    """Else a training with examples would end in other weights than one without."""
    forecaster, before = tiny_forecaster(), torch.get_rng_state()
    weights = {name: tensor.clone() for name, tensor in forecaster.state_dict().items()}
    board.examples(forecaster, make_examples(), 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(weights[name], t) for name, t in forecaster.state_dict().items())
    assert not forecaster.training


def test_quick_epochs_have_no_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a second here, so the next picture comes 20 seconds after the one before."""
    now, drawn = [100.0], []
    monkeypatch.setattr("train.run_dir.time", SimpleNamespace(monotonic=lambda: now[0]))

    def examples(self: Board, forecaster: Forecaster, examples: Examples, epoch: int) -> None:
        drawn.append((epoch, now[0]))
        now[0] += 1

    monkeypatch.setattr(Board, "examples", examples)
    with closing(RunDirectory(tmp_path / "run", TrainConfig(), examples=make_examples())) as run:
        for epoch in range(1, 12):
            run.log_epoch(replace(RECORD, epoch=epoch), tiny_forecaster())
            now[0] += 5
    assert drawn == [(1, 100.0), (5, 121.0), (9, 142.0)]


def test_chosen_examples_are_each_servers_latest() -> None:
    fleet = small_fleet()
    index = index_windows(fleet, SCHEMA)
    examples = choose_examples(fleet, WindowStore(fleet, SCHEMA), index, servers=2)
    assert examples.servers == ("server0", "server1")
    ends = fleet.first_tick[:2] + fleet.lengths[:2]
    latest = (ends - SCHEMA.prediction_horizon) * SCHEMA.step_seconds
    assert examples.origins == tuple(latest)
    future = fleet.series(1)[-SCHEMA.prediction_horizon :, :2]
    np.testing.assert_array_equal(examples.batch.future[1], future)


def test_selection_weights_ignore_ticks_before_a_series_began() -> None:
    """Their weights are zeros, or of padding: the sum over variables would fall short of 1."""
    batch = random_batch()._replace(history_length=torch.tensor([20, 12, 4]))
    examples = Examples(batch, ("a", "b", "c"), (0, 0, 0))
    forecaster = tiny_forecaster()
    weights = mean_selection_weights(forecaster, examples)
    assert list(weights) == ["past", "future", "static"]
    for group in weights.values():
        assert sum(group.values()) == pytest.approx(1.0, abs=1e-5)
    output = forecaster.explain(batch, return_weights=True)
    rows = enumerate([20, 12, 4])
    begun = torch.stack([output.past_weights[row, -length:].mean(0) for row, length in rows])
    assert list(weights["past"].values()) == pytest.approx(begun.mean(0).tolist())


def hparams_of(events: EventAccumulator, tag: str) -> plugin_data_pb2.HParamsPluginData:
    content = events.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


def test_a_run_ends_in_the_hparams_tab(board: Board, config: TrainConfig, tmp_path: Path) -> None:
    board.epoch(RECORD)
    board.hparams(config, {"best_validation_loss": 0.1875, "epochs": 3})
    (file,) = tmp_path.iterdir()  # no sub-directory, which would be a run of its own
    events = read(tmp_path)
    started = hparams_of(events, "session_start_info").session_start_info.hparams
    assert started["learning_rate"].number_value == 0.5
    assert started["precision"].string_value == "fp32"
    assert started["max_minutes"].string_value == "none"
    assert started["multi_target"].string_value == "true"
    assert started["target_metrics"].string_value.startswith("cpu_percent, memory_percent, ")
    assert "logs_dir" not in started
    metrics = hparams_of(events, "experiment").experiment.metric_infos
    assert [metric.name.tag for metric in metrics] == ["final/best_validation_loss", "final/epochs"]
    curves = points(events)
    assert curves["final/best_validation_loss"] == [(0, 0.1875)]
    assert curves["final/epochs"] == [(0, 3.0)]


def test_every_key_that_changes_the_result_is_there(board: Board, tmp_path: Path) -> None:
    """TensorBoard would refuse a list, and drop a None without a word."""
    config = TrainConfig(epochs=None, max_minutes=2.0, windows_per_epoch=None)
    board.hparams(config, {})
    started = hparams_of(read(tmp_path), "session_start_info").session_start_info.hparams
    assert set(started) == set(config.to_dict()) - NO_HPARAMS
