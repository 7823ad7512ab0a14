"""Processes that train, to be killed, stopped, starved and watched."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from tests.builders import SMALL_TRAINING
from tft.bundle import load_forecaster
from train.checkpoint import newest_checkpoint

ROOT = Path(__file__).parent.parent.parent
ROUNDS = int(os.environ.get("FAULT_ROUNDS", "3"))
LONG = ROUNDS >= 10
EPOCHS, STEPS = 2, 20  # steps an epoch
SETTINGS = {
    **SMALL_TRAINING,
    "epochs": EPOCHS,
    "windows_per_epoch": STEPS * SMALL_TRAINING["batch_size"],
    "checkpoint_minutes": 0.0,  # one after every step
    "device": "cpu",
}
LIMIT = 120.0  # seconds in which any of these processes ends, however busy the machine is
kills: Counter[str] = Counter()
service_kills: Counter[str] = Counter()
hostile: Counter[str] = Counter()
feeds: Counter[str] = Counter()


class Starter:
    """Starts `cli.py` in processes of its own."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("starter.py"))],
            stdin=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        self.started = 0

    def start(self, *arguments: str | Path) -> "Started":
        """Start the command line with these arguments."""
        self.started += 1
        folder = Path(self.folder.name) / str(self.started)
        folder.mkdir()
        for stream in ("output", "errors"):
            (folder / stream).touch()
        (folder / "arguments").write_text(json.dumps([str(argument) for argument in arguments]))
        assert self.process.stdin is not None
        print(folder, file=self.process.stdin, flush=True)
        return Started(folder)

    def close(self) -> None:
        """End the process that starts the others."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


class Started:
    """A process that runs the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        wait_until((folder / "pid").exists)
        self.pid = int((folder / "pid").read_text())

    @property
    def output(self) -> str:
        """What it has written to standard output."""
        return (self.folder / "output").read_text()

    @property
    def errors(self) -> str:
        """What it has written to standard error."""
        return (self.folder / "errors").read_text()

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return (self.folder / "exit").exists()

    def wait(self, seconds: float = LIMIT) -> int:
        """Return its exit status, negative for a signal, as soon as it has ended."""
        wait_until(lambda: self.ended, seconds)
        return int((self.folder / "exit").read_text())

    def wait_for(self, condition: Callable[[], object], pause: float = 0.005) -> None:
        """Wait until a condition holds, or the process has ended."""
        wait_until(lambda: condition() or self.ended, pause=pause)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        if not self.ended:
            os.kill(self.pid, number)

    def kill(self) -> bool:
        """Kill it, and tell whether that is what ended it."""
        self.send(signal.SIGKILL)
        return self.wait() == -signal.SIGKILL


def wait_until(
    condition: Callable[[], object], seconds: float = LIMIT, pause: float = 0.005
) -> None:
    """Wait until a condition holds; look again after each pause."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"waited {seconds:.0f} s in vain"
        time.sleep(pause)


def arguments(table: Path, run: Path, *more: str | Path) -> list[str | Path]:
    """Return those of a small training."""
    settings = [
        part
        for key, value in SETTINGS.items()
        for part in ("--set", f"{key}={','.join(value) if isinstance(value, tuple) else value}")
    ]
    return ["train", "--data", table, "--run-dir", run, *settings, *more]


def newest_step(run: Path) -> int:
    """Return the number of steps taken up to the newest checkpoint."""
    names = [path.name for path in (run / "checkpoints").glob("step-*.pt")]
    return max((int(name.split("-")[1]) for name in names), default=0)


def leftovers(run: Path) -> list[Path]:
    """Return what was being written when a process ended."""
    return list(run.rglob(".*.tmp"))


def inside_a_save(run: Path) -> bool:
    """Tell whether a checkpoint is half written."""
    return any((run / "checkpoints").glob(".step-*.tmp"))


def final_state(run: Path) -> dict[str, torch.Tensor]:
    """Return the last weights, the served ones, and the optimizer's moments."""
    found = newest_checkpoint(run / "checkpoints", print)
    assert found is not None
    served = load_forecaster(run / "model").state_dict()
    moments = {
        f"{number} {name}": tensor
        for number, state in found[1]["optimizer"]["state"].items()
        for name, tensor in state.items()
    }
    return {**found[1]["forecaster"], **{f"served {k}": v for k, v in served.items()}, **moments}


def losses(run: Path) -> list[tuple[int, float, float]]:
    """Return what metrics.jsonl says that does not depend on the machine."""
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [(line["epoch"], line["train_loss"], line["val_loss"]) for line in lines]


def assert_same(whole: Path, run: Path) -> None:
    """Check, bit for bit, that a run ended as the one that was left alone did."""
    expected, found = final_state(whole), final_state(run)
    assert expected.keys() == found.keys()
    different = [name for name in expected if not torch.equal(expected[name], found[name])]
    assert not different
    assert losses(whole) == losses(run)
    assert not leftovers(run)
