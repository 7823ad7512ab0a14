"""A full disk and damaged checkpoints cost no more than the steps since the last whole one."""

import resource
import shutil
from pathlib import Path

from tests.faults.conftest import Train, Whole
from tests.faults.processes import STEPS, Started, assert_same, newest_step
from train.checkpoint import newest_checkpoint


def fill_disk(process: Started) -> None:
    """Let no file grow beyond a size that a checkpoint has not, and all else has."""
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))


def assert_full(process: Started) -> None:
    assert process.wait() == 2
    line = process.errors.splitlines()[-1]
    assert line.startswith("Error: [Errno 27] File too large: '")
    assert "/checkpoints/step-0" in line
    assert process.errors.count("Error") == 1 and "Traceback" not in process.errors


def test_a_full_disk_is_said_and_the_run_can_go_on(
    train: Train, whole: Whole, tmp_path: Path
) -> None:
    """A limit on the size of files stands for it: at the first checkpoint, and at a later one."""
    run = tmp_path / "run"
    process = train(run)
    process.wait_for(run.exists)
    fill_disk(process)
    assert_full(process)
    assert newest_step(run) == 0

    process = train(run, "--resume")
    process.wait_for(lambda: newest_step(run) > STEPS)
    fill_disk(process)
    assert_full(process)
    found = newest_checkpoint(run / "checkpoints", print)
    assert found is not None and found[1]["numbers"]["step"] > STEPS

    process = train(run, "--resume")
    assert process.wait() == 0, process.errors
    assert f"resuming at epoch {found[1]['numbers']['epoch']}" in process.errors
    assert found[0].name in process.errors
    assert_same(whole.run, run)


def test_a_damaged_checkpoint_is_said_and_the_one_before_taken(
    train: Train, whole: Whole, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole.run, run)
    older, newest = sorted((run / "checkpoints").iterdir())[-2:]
    blob = bytearray(newest.read_bytes())
    blob[1234] ^= 1
    newest.write_bytes(blob)
    process = train(run, "--resume")
    assert process.wait() == 0, process.errors
    assert f"skipping {newest}: damaged, its content has not the hash" in process.errors
    assert f"from {older.name}" in process.errors
    assert_same(whole.run, run)
