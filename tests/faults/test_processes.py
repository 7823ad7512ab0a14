"""Nothing is lost when the process ends: killed, asked to stop, or out of disk.

The short form runs with the tests; `FAULT_ROUNDS=50 python -m pytest tests/faults` is the long one.
"""

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.builders import SMALL_TRAINING, small_table
from tft.bundle import load_forecaster
from train.checkpoint import newest_checkpoint

ROOT = Path(__file__).parent.parent.parent
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "3"))
SETTINGS = {**SMALL_TRAINING, "epochs": 4, "windows_per_epoch": 800, "checkpoint_minutes": 0.0}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "fleet.parquet"
    small_table().to_parquet(path)
    return path


def command(table: Path, run: Path, *more: str) -> list[str]:
    settings = [
        part
        for key, value in SETTINGS.items()
        for part in ("--set", f"{key}={','.join(value) if isinstance(value, tuple) else value}")
    ]
    return [sys.executable, str(ROOT / "cli.py"), "train", "--data", str(table), "--run-dir",
            str(run), *settings, *more]  # fmt: skip


def start(arguments: list[str], **more) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **more,
    )


def wait_for_training(process: subprocess.Popen, run: Path) -> None:
    """Wait until the first checkpoint is there: the training is under way."""
    while not (run / "checkpoints").is_dir() and process.poll() is None:
        time.sleep(0.01)


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    found = newest_checkpoint(run / "checkpoints", print)
    assert found is not None
    return found[1]["forecaster"]


@pytest.fixture(scope="module")
def uninterrupted(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    run = tmp_path_factory.mktemp("runs") / "whole"
    process = start(command(table, run))
    wait_for_training(process, run)
    began = time.monotonic()
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return run, time.monotonic() - began


def assert_same(one: Path, two: Path) -> None:
    a, b = final_weights(one), final_weights(two)
    assert all(torch.equal(a[name], b[name]) for name in a)
    a, b = (load_forecaster(run / "model").state_dict() for run in (one, two))
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_kill_9_at_any_instant(
    table: Path, uninterrupted: tuple[Path, float], tmp_path: Path, seed: int
) -> None:
    """With a checkpoint every step, many of these kills hit one in the writing."""
    whole, seconds = uninterrupted
    run = tmp_path / "run"
    process = start(command(table, run))
    wait_for_training(process, run)
    time.sleep(random.Random(seed).uniform(0, seconds))
    process.kill()
    process.communicate()
    resumed = start(command(table, run, "--resume"))
    output, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    assert "resuming at epoch" in errors
    assert output.splitlines()[-1] == str(run)
    assert_same(whole, run)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_asked_to_stop_it_saves_and_says_so(
    table: Path, uninterrupted: tuple[Path, float], tmp_path: Path, number: int, code: int
) -> None:
    run = tmp_path / "run"
    process = start([*command(table, run), "--set", "checkpoint_minutes=60"])
    while not (run / "config.json").exists():
        time.sleep(0.01)
    time.sleep(1.0)
    process.send_signal(number)
    output, errors = process.communicate(timeout=10)
    assert process.returncode == code
    assert "go on with --resume" in errors and output == ""
    assert len(list((run / "checkpoints").glob("step-*.pt"))) >= 1
    resumed = start([*command(table, run), "--resume"])
    _, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    assert_same(uninterrupted[0], run)


def test_a_second_process_on_the_same_run_is_refused(table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = start(command(table, run))
    wait_for_training(first, run)
    second = start(command(table, run, "--resume"))
    _, errors = second.communicate()
    assert second.returncode == 2
    assert f"is in use by process {first.pid} on" in errors
    assert first.poll() is None, "the first was to be still at work"
    first.kill()
    first.communicate()


def test_a_full_disk_is_said_and_the_run_can_go_on(
    table: Path, uninterrupted: tuple[Path, float], tmp_path: Path
) -> None:
    """A limit on file size stands for the full disk: the first checkpoint does not fit."""
    run = tmp_path / "run"

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))

    process = start(command(table, run), preexec_fn=limit)
    _, errors = process.communicate()
    assert process.returncode == 2
    assert errors.splitlines()[-1].startswith("Error: [Errno 27] File too large")
    assert "Traceback" not in errors
    resumed = start(command(table, run, "--resume"))
    _, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    assert_same(uninterrupted[0], run)
