"""What only a GPU can show; skipped where there is none."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.builders import SMALL_TRAINING, random_batch, small_table, tiny_forecaster
from tft.bundle import load_forecaster
from train import TFTTrainer, TrainConfig
from train.checkpoint import newest_checkpoint
from train.state import TrainState

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CONFIG = TrainConfig(**SMALL_TRAINING, device="cuda")


def quiet(_: str) -> None:
    pass


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "fleet.csv"
    small_table().to_csv(path, index=False)
    return path


def test_forecasts_are_those_of_a_cpu() -> None:
    forecaster, batch = tiny_forecaster(), random_batch()
    there = tiny_forecaster().to("cuda").forecast(batch.to(torch.device("cuda"))).cpu()
    torch.testing.assert_close(there, forecaster.forecast(batch), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_in_every_precision(table: Path, tmp_path: Path, precision: str) -> None:
    config = replace(CONFIG, precision=precision)
    run = TFTTrainer(config, say=quiet).train(table, tmp_path / "run")
    assert load_forecaster(run / "model").forecast(random_batch_of(run)).isfinite().all()


def random_batch_of(run: Path):
    return random_batch(schema=load_forecaster(run / "model").schema)


def test_a_checkpoint_of_a_gpu_goes_on_on_a_cpu(table: Path, tmp_path: Path) -> None:
    run = TFTTrainer(CONFIG, say=quiet).train(table, tmp_path / "run")
    found = newest_checkpoint(run / "checkpoints", quiet)
    assert found is not None
    state = TrainState(load_forecaster(run / "model"), CONFIG, found[1]["data"])
    state.load_state_dict(found[1])
    assert state.step == found[1]["numbers"]["step"] and state.device.type == "cpu"
    again = replace(CONFIG, device="cpu", epochs=3)
    TFTTrainer(again, say=quiet).train(table, run, resume=True)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3


def test_deterministic_kernels_train_the_same_weights_twice(table: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, deterministic=True)
    runs = [TFTTrainer(config, say=quiet).train(table, tmp_path / name) for name in ("one", "two")]
    one, two = (load_forecaster(run / "model").state_dict() for run in runs)
    assert all(torch.equal(one[name], two[name]) for name in one)
