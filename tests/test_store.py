"""The state's file: one process at a time, of one set of columns, damage told."""

import random
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from serve.state import FleetState
from serve.store import FILE, Store
from tests.feeds import NOW, SMALL, START, row, state
from tests.tables import same


def test_a_commit_waits_for_the_disk(tmp_path: Path) -> None:
    """kill -9 cannot tell: what SQLite was asked for is all a test can see of it."""
    store = Store(tmp_path, SMALL)
    assert store._pragma("synchronous") == 2  # FULL
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    store.close()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    store = Store(tmp_path, SMALL)
    with pytest.raises(ValueError, match="state.sqlite is in use by another process; end it"):
        Store(tmp_path, SMALL)
    store.keep_document("alerts", {"a": [1, None]})
    store.close()
    store = Store(tmp_path, SMALL)
    assert (store.document("alerts"), store.document("none")) == ({"a": [1, None]}, None)
    store.close()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            replace(SMALL, observed=()),
            "holds 'temperature', which is none of the model's metrics; there are cpu_percent, "
            "load_average; name another state directory, or serve a model",
        ),
        (
            replace(SMALL, targets=SMALL.targets[::-1]),
            "holds metrics cpu_percent, load_average, temperature, the model needs load_average, "
            "cpu_percent, temperature; name another",
        ),
        (replace(SMALL, static_reals=()), "holds 'cores', which is none of the model's static"),
        (replace(SMALL, step_seconds=300), "holds ticks of 3600 s, the model's are of 300 s"),
    ],
)
def test_a_store_of_other_columns_is_refused(tmp_path: Path, other, message: str) -> None:
    Store(tmp_path, SMALL).close()
    with pytest.raises(ValueError, match=message):
        Store(tmp_path, other)
    Store(tmp_path, SMALL).close()


def test_a_file_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as db:
        db.execute("CREATE TABLE songs (name)")
    db.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(ValueError, match="is a database of another program; name another state"):
        Store(tmp_path, SMALL)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path, SMALL)
    store._db.execute("PRAGMA user_version = 9")
    store.close()
    with pytest.raises(ValueError, match="is of version 9, this program reads 1; use the version"):
        Store(tmp_path, SMALL)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(OSError, match="state.sqlite: unable to open database file"):
        Store(tmp_path, SMALL)


def test_a_damaged_file_is_told_or_harmless(tmp_path: Path) -> None:
    """Bytes changed anywhere: one clear error, or all that was acknowledged is there."""
    fed = state(tmp_path)
    for tick in range(START, START + 10):
        fed.accept([row(f"server{i}", tick, cpu=i, profile="web_api") for i in range(20)])
    whole = fed.fleet()
    fed._store.close()
    path, told = tmp_path / FILE, 0
    content = path.read_bytes()
    draw = random.Random(0)
    for _ in range(150):
        blob = bytearray(content)
        place = draw.randrange(len(blob))
        blob[place] ^= 1 << draw.randrange(8)
        path.write_bytes(blob)
        try:
            store = Store(tmp_path, SMALL)
        except (ValueError, OSError) as error:
            assert str(path) in str(error)
            told += 1
            continue
        try:
            same(FleetState(SMALL, store, lambda: NOW).fleet(), whole)
        except ValueError as error:
            assert f"{path} is damaged" in str(error), error
            told += 1
        finally:
            store.close()
    assert told > 20
    path.write_bytes(b"no database at all, but long enough to look like one" * 99)
    with pytest.raises(ValueError, match="damaged: file is not a database; restore it, or move"):
        Store(tmp_path, SMALL)
