"""A pickle planted as any file the program loads never runs."""

import gzip
import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from click.testing import CliRunner, Result

from cli import cli
from tests.builders import small_table
from tests.faults.processes import STEPS, arguments
from tft.bundle import MANIFEST

Made = tuple[Path, Path]  # a table, a run


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, sentinel: Path) -> None:
        self.sentinel = sentinel

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.sentinel),)


def pickled(sentinel: Path) -> bytes:
    return pickle.dumps(Payload(sentinel))


def saved_by_torch(sentinel: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save({"version": 1, "payload": Payload(sentinel)}, buffer)
    return buffer.getvalue()


MAKERS = pytest.mark.parametrize("make", [pickled, saved_by_torch])


def invoke(*parts: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(part) for part in parts])


def resume(table: Path, run: Path, *more: str | Path) -> Result:
    return invoke(*arguments(table, run, "--set", "epochs=2", "--resume", *more))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    small_table().to_parquet(folder / "fleet.parquet")
    result = resume(folder / "fleet.parquet", folder / "run", "--set", "epochs=1")
    assert result.exit_code == 0, result.output
    return folder / "fleet.parquet", folder / "run"


@pytest.fixture
def made(trained: Made, tmp_path: Path) -> Made:
    shutil.copytree(trained[1], tmp_path / "run")
    return trained[0], tmp_path / "run"


def assert_refused(result: Result, sentinel: Path) -> None:
    assert not sentinel.exists()
    assert result.exit_code == 2 and isinstance(result.exception, SystemExit)
    assert result.stderr.splitlines()[-1].startswith("Error: ")


@MAKERS
def test_the_payload_works(tmp_path: Path, make: Callable[[Path], bytes]) -> None:
    """Else nothing below would show anything."""
    with suppress(RuntimeError):  # a bare pickle is not what PyTorch expects, but it has run
        torch.load(io.BytesIO(make(tmp_path / "sentinel")), weights_only=False)
    assert (tmp_path / "sentinel").exists()


@MAKERS
def test_as_a_checkpoint(made: Made, tmp_path: Path, make: Callable[[Path], bytes]) -> None:
    """Even the newest, with the right hash in its name: the one before is taken."""
    table, run = made
    blob = make(tmp_path / "sentinel")
    name = f"step-000000099-{hashlib.sha256(blob).hexdigest()[:16]}.pt"
    (run / "checkpoints" / name).write_bytes(blob)
    result = resume(table, run)
    assert not (tmp_path / "sentinel").exists()
    assert result.exit_code == 0, result.output
    assert f"{name}: not a checkpoint" in result.stderr
    assert f"resuming at epoch 2, step {STEPS}, from step-{STEPS:09d}-" in result.stderr


@MAKERS
@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl"])
def test_in_a_run_to_resume(
    made: Made, tmp_path: Path, make: Callable[[Path], bytes], name: str
) -> None:
    table, run = made
    (run / name).write_bytes(make(tmp_path / "sentinel"))
    assert_refused(resume(table, run), tmp_path / "sentinel")


@MAKERS
@pytest.mark.parametrize("name", ["weights", MANIFEST, "config.json"])
def test_in_a_run_to_forecast_with(
    made: Made, tmp_path: Path, make: Callable[[Path], bytes], name: str
) -> None:
    """Weights even with the right hash in the manifest."""
    table, run = made
    blob = make(tmp_path / "sentinel")
    if name == "weights":
        manifest = json.loads((run / "model" / MANIFEST).read_text())
        manifest["weights_sha256"] = hashlib.sha256(blob).hexdigest()
        (run / "model" / MANIFEST).write_text(json.dumps(manifest))
        (run / "model" / manifest["weights"]).write_bytes(blob)
    else:
        (run / "model" / name if name == MANIFEST else run / name).write_bytes(blob)
    result = invoke("forecast", run, "--data", table, "--out", tmp_path / "f.csv")
    assert_refused(result, tmp_path / "sentinel")


@MAKERS
@pytest.mark.parametrize("name", ["t.parquet", "t.csv", "t.csv.gz"])
def test_as_a_table(tmp_path: Path, make: Callable[[Path], bytes], name: str) -> None:
    blob = make(tmp_path / "sentinel")
    (tmp_path / name).write_bytes(gzip.compress(blob) if name.endswith("gz") else blob)
    result = invoke(*arguments(tmp_path / name, tmp_path / "run"))
    assert_refused(result, tmp_path / "sentinel")


def test_as_the_type_of_a_column(tmp_path: Path) -> None:
    """Before 14.0.1 pyarrow unpickled a column's type from its metadata (CVE-2023-47248)."""
    table = pa.Table.from_pandas(small_table())
    number = table.schema.get_field_index("cpu_percent")
    field = table.schema.field(number).with_metadata(
        {
            "ARROW:extension:name": "arrow.py_extension_type",
            "ARROW:extension:metadata": pickled(tmp_path / "sentinel"),
        }
    )
    pq.write_table(table.set_column(number, field, table.column(number)), tmp_path / "t.parquet")
    invoke(*arguments(tmp_path / "t.parquet", tmp_path / "run"), "--set", "epochs=1")
    assert not (tmp_path / "sentinel").exists()


@MAKERS
def test_as_what_a_person_writes(made: Made, tmp_path: Path, make: Callable[[Path], bytes]) -> None:
    """The list of origins to forecast, and the file of configuration keys."""
    table, run = made
    (tmp_path / "file").write_bytes(make(tmp_path / "sentinel"))
    result = invoke("forecast", run, "--data", table, "--origins", tmp_path / "file", "--out",
                    tmp_path / "f.csv")  # fmt: skip
    assert_refused(result, tmp_path / "sentinel")
    result = invoke(*arguments(table, tmp_path / "new"), "--config", tmp_path / "file")
    assert_refused(result, tmp_path / "sentinel")
