"""A bundle holds one whole forecaster, and loading runs no code."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.builders import random_batch, tiny_forecaster
from tft.bundle import MANIFEST, load_forecaster, save_forecaster
from tft.files import write_atomically
from tft.forecaster import TrainingFacts


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    forecaster = tiny_forecaster()
    forecaster.facts = TrainingFacts(("a", "b"), 77)
    forecaster.unknown_rate, forecaster.calendar_dropout = 0.25, 0.75
    save_forecaster(forecaster, tmp_path / "model")
    return tmp_path / "model"


def edit(bundle: Path, **changes: Any) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    (bundle / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def weights_file(bundle: Path) -> Path:
    return next(bundle.glob("weights-*.safetensors"))


def test_round_trip_forecasts_the_same(bundle: Path) -> None:
    loaded, original = load_forecaster(bundle), tiny_forecaster()
    assert torch.equal(loaded.forecast(random_batch()), original.forecast(random_batch()))
    assert loaded.schema == original.schema
    assert loaded.facts == TrainingFacts(("a", "b"), 77)
    assert (loaded.unknown_rate, loaded.calendar_dropout) == (0.25, 0.75)
    assert not loaded.training


def test_saving_again_replaces_and_leaves_nothing_behind(bundle: Path) -> None:
    save_forecaster(tiny_forecaster(seed=1), bundle)
    assert len(list(bundle.iterdir())) == 2
    expected = tiny_forecaster(seed=1).forecast(random_batch())
    assert torch.equal(load_forecaster(bundle).forecast(random_batch()), expected)


def test_a_crash_before_the_manifest_leaves_the_old_forecaster(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(path: Path, blob: bytes) -> None:
        if path.name == MANIFEST:
            raise OSError("disk full")
        write_atomically(path, blob)

    monkeypatch.setattr("tft.bundle.write_atomically", crash)
    with pytest.raises(OSError, match="disk full"):
        save_forecaster(tiny_forecaster(seed=1), bundle)
    expected = tiny_forecaster().forecast(random_batch())
    assert torch.equal(load_forecaster(bundle).forecast(random_batch()), expected)


def test_an_interrupted_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_another_version_is_refused(bundle: Path) -> None:
    edit(bundle, version=99)
    with pytest.raises(ValueError, match="bundle version 99, this program reads 5"):
        load_forecaster(bundle)


def test_another_format_is_refused(bundle: Path) -> None:
    edit(bundle, format="something-else")
    with pytest.raises(ValueError, match="not a fleet-tft forecaster"):
        load_forecaster(bundle)


def test_a_schema_of_other_fields_is_refused(bundle: Path) -> None:
    schema = json.loads((bundle / MANIFEST).read_text())["schema"]
    del schema["profiles"]
    edit(bundle, schema=schema)
    with pytest.raises(ValueError, match="schema does not match this program"):
        load_forecaster(bundle)


def test_a_schema_the_network_does_not_fit_is_refused(bundle: Path) -> None:
    schema = json.loads((bundle / MANIFEST).read_text())["schema"]
    schema["observed"] = []
    edit(bundle, schema=schema)
    with pytest.raises(ValueError, match="num_past is 5, the schema needs 4"):
        load_forecaster(bundle)


def test_more_profiles_than_the_network_has_codes_for_are_refused(bundle: Path) -> None:
    schema = json.loads((bundle / MANIFEST).read_text())["schema"]
    schema["profiles"].append("mainframe")
    edit(bundle, schema=schema)
    with pytest.raises(ValueError, match="static_cardinalities"):
        load_forecaster(bundle)


def test_weights_of_another_shape_are_refused(bundle: Path) -> None:
    network = json.loads((bundle / MANIFEST).read_text())["network"]
    network["embedding_size"] = 5
    edit(bundle, network=network)
    with pytest.raises(ValueError, match="tensors do not fit the schema"):
        load_forecaster(bundle)


@pytest.mark.parametrize("position", [0, 100, -1])
def test_one_flipped_bit_is_found(bundle: Path, position: int) -> None:
    blob = bytearray(weights_file(bundle).read_bytes())
    blob[position] ^= 1
    weights_file(bundle).write_bytes(blob)
    with pytest.raises(ValueError, match="damaged"):
        load_forecaster(bundle)


def test_no_bundle_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no forecaster.json"):
        load_forecaster(tmp_path)
    (tmp_path / MANIFEST).write_text("{not json")
    with pytest.raises(ValueError, match="not readable as JSON"):
        load_forecaster(tmp_path)


def test_missing_weights_are_named(bundle: Path) -> None:
    weights_file(bundle).unlink()
    with pytest.raises(ValueError, match="weights not readable"):
        load_forecaster(bundle)


def test_weights_outside_the_folder_are_refused(bundle: Path) -> None:
    edit(bundle, weights="../../secret")
    with pytest.raises(ValueError, match="must be a file in the same folder"):
        load_forecaster(bundle)


@pytest.mark.parametrize("target", ["manifest", "weights"])
def test_a_planted_pickle_never_runs(bundle: Path, tmp_path: Path, target: str) -> None:
    sentinel = tmp_path / "sentinel"

    class Payload:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(sentinel),)

    blob = pickle.dumps(Payload())
    if target == "manifest":
        (bundle / MANIFEST).write_bytes(blob)
    else:
        import hashlib

        weights_file(bundle).write_bytes(blob)
        edit(bundle, weights_sha256=hashlib.sha256(blob).hexdigest())
    with pytest.raises(ValueError, match="JSON|safetensors"):
        load_forecaster(bundle)
    assert not sentinel.exists()
