"""Ranks started by torchrun: the same training as one process, and nothing hangs or is lost."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.builders import SMALL_TRAINING
from train.checkpoint import newest_checkpoint

ROOT = Path(__file__).parent.parent.parent
SETTINGS = {
    **SMALL_TRAINING, "windows_per_epoch": 97, "validation_windows": 33, "epochs": 3,
    "dropout": 0.0, "unknown_rate": 0.0, "calendar_dropout": 0.0, "accumulate_grad_batches": 2,
    "checkpoint_minutes": 0.0,
}  # fmt: skip


def start(ranks: int, table: Path, run: Path, *more: str, **settings: object) -> subprocess.Popen:
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command += [str(ROOT / "cli.py"), "train", "--data", str(table), "--run-dir", str(run), *more]
    for key, value in {**SETTINGS, **settings}.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple) else value
        command += ["--set", f"{key}={text}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(process: subprocess.Popen, seconds: float = 120) -> tuple[str, str]:
    return process.communicate(timeout=seconds)


def weights(run: Path) -> torch.Tensor:
    found = newest_checkpoint(run / "checkpoints", print)
    assert found is not None
    return torch.cat([weight.flatten() for weight in found[1]["forecaster"].values()])


def losses(run: Path) -> list[float]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["val_loss"] for line in lines]


def wait_for_steps(run: Path, process: subprocess.Popen) -> None:
    while not list((run / "checkpoints").glob("step-*.pt")) and process.poll() is None:
        time.sleep(0.01)


def children(process: subprocess.Popen) -> list[int]:
    """Return the ranks that a torchrun started, in their order."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return sorted(int(pid) for pid in found)


@pytest.fixture(scope="module")
def alone(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "alone"
    process = start(1, table, run)
    _, errors = finish(process)
    assert process.returncode == 0, errors
    return run


def test_two_ranks_train_what_one_process_trains(table: Path, alone: Path, tmp_path: Path) -> None:
    """In float32 the order of additions differs, so almost; see tests/test_ranks.py."""
    run = tmp_path / "two"
    process = start(2, table, run)
    output, errors = finish(process)
    assert process.returncode == 0, errors
    assert output.splitlines() == [str(run)], "one rank talks"
    assert losses(run) == pytest.approx(losses(alone), rel=1e-3)
    torch.testing.assert_close(weights(run), weights(alone), rtol=0, atol=2e-3)
    assert {path.name for path in run.iterdir()} == {path.name for path in alone.iterdir()}
    infos = [json.loads((each / "training_info.json").read_text()) for each in (run, alone)]
    assert [info["ranks"] for info in infos] == [2, 1]


def test_stopped_as_two_ranks_it_goes_on_as_one(table: Path, alone: Path, tmp_path: Path) -> None:
    """With the same windows in the same order; torchrun hands the signal on to its ranks."""
    run = tmp_path / "run"
    process = start(2, table, run)
    wait_for_steps(run, process)
    process.send_signal(signal.SIGTERM)
    _, errors = finish(process, 40)
    assert process.returncode != 0
    assert "stopped by SIGTERM; go on with --resume" in errors
    resumed = start(1, table, run, "--resume")
    _, errors = finish(resumed)
    assert resumed.returncode == 0 and "resuming at epoch" in errors, errors
    assert losses(run) == pytest.approx(losses(alone), rel=1e-3)
    torch.testing.assert_close(weights(run), weights(alone), rtol=0, atol=2e-3)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_rank_hangs_nobody(table: Path, alone: Path, tmp_path: Path, victim: int) -> None:
    run = tmp_path / "run"
    process = start(2, table, run, epochs=500, early_stopping_patience=500)
    wait_for_steps(run, process)
    os.kill(children(process)[victim], signal.SIGKILL)
    _, errors = finish(process, 60)
    assert process.returncode != 0
    if victim == 1:
        assert "rank 0 lost another one" in errors and "--resume" in errors
    resumed = start(2, table, run, "--resume")
    _, errors = finish(resumed)
    assert resumed.returncode == 0 and "resuming at epoch" in errors, errors
