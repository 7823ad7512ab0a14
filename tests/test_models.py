"""Models are swapped whole, from one directory, and only for one that fits."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serve.models import LoadedModel, ModelShelf
from tests.builders import SCHEMA, tiny_forecaster
from tft.bundle import MANIFEST, load_forecaster, save_forecaster
from tft.forecaster import TrainingFacts
from tft.schema import FeatureSchema, Metric


def bundle(folder: Path, seed: int = 0, schema: FeatureSchema = SCHEMA) -> Path:
    forecaster = tiny_forecaster(seed, schema)
    forecaster.facts = TrainingFacts(end_tick=1000 + seed)
    save_forecaster(forecaster, folder)
    return folder


def hash_of(folder: Path) -> str:
    return str(json.loads((folder / MANIFEST).read_text())["weights_sha256"])[:12]


@pytest.fixture
def shelf(tmp_path: Path) -> ModelShelf:
    return ModelShelf(bundle(tmp_path / "run" / "model"), tmp_path / "models")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    bundle(tmp_path / "models" / "newer", seed=1)
    return tmp_path / "models"


def test_the_identity_is_the_hash_that_was_verified(shelf: ModelShelf) -> None:
    current = shelf.current
    assert current.identity.hash == hash_of(current.folder)
    assert current.identity.trained_until == 1000 * SCHEMA.step_seconds
    assert not current.forecaster.training
    assert shelf.previous is None


def test_a_model_is_swapped_in_and_back(shelf: ModelShelf, models: Path) -> None:
    first = shelf.current
    second = shelf.reload("newer")
    assert second.identity.hash == hash_of(models / "newer") != first.identity.hash
    assert (shelf.current, shelf.previous) == (second, first)
    assert shelf.rollback() is first
    assert (shelf.current, shelf.previous) == (first, second)
    assert shelf.rollback() is second


def test_a_run_directory_is_a_model_too(shelf: ModelShelf, models: Path) -> None:
    folder = bundle(models / "a-run" / "model", seed=2)
    assert shelf.reload("a-run").identity.hash == hash_of(folder)


def test_nothing_to_go_back_to_is_said(shelf: ModelShelf) -> None:
    with pytest.raises(ValueError, match="no model came before"):
        shelf.rollback()


def test_without_a_name_the_current_folder_is_read_again(shelf: ModelShelf, tmp_path: Path) -> None:
    first = shelf.current
    bundle(first.folder, seed=3)
    assert shelf.reload().identity.hash == hash_of(first.folder)
    assert shelf.previous is first


def test_the_same_weights_again_leave_what_rollback_goes_to(
    shelf: ModelShelf, models: Path
) -> None:
    first, second = shelf.current, shelf.reload("newer")
    assert shelf.reload("newer") is second and shelf.reload() is second
    assert shelf.previous is first


@pytest.mark.parametrize(
    "name",
    ["../run/model", "..", ".", "", ".hidden", "/etc", "a/b", "newer\n", "newer\0", "n" * 101]
    + ["newer/../newer", "nëwer", "..\\newer", "~root"],
)
def test_a_name_never_becomes_a_path(shelf: ModelShelf, models: Path, name: str) -> None:
    """Also where there is a model to be found."""
    bundle(models / ".hidden", seed=4)
    current = shelf.current
    with pytest.raises(ValueError, match=r"model name .*: expected letters"):
        shelf.reload(name)
    assert shelf.current is current


def test_a_name_of_nothing_is_refused(shelf: ModelShelf, models: Path) -> None:
    (models / "notes.txt").write_text("")
    (models / "empty").mkdir()
    for name, message in (
        ("nobody", "no model 'nobody'"),
        ("notes.txt", "no model 'notes.txt'"),
        ("empty", MANIFEST),
    ):
        with pytest.raises(ValueError, match=message):
            shelf.reload(name)


def test_without_a_models_directory_no_name_is_taken(tmp_path: Path) -> None:
    shelf = ModelShelf(bundle(tmp_path / "model"))
    with pytest.raises(ValueError, match="without a models directory"):
        shelf.reload("model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": (*SCHEMA.targets, Metric("disk"))}, "its target metrics are .* disk"),
        ({"targets": SCHEMA.targets[::-1]}, "its target metrics are load_average"),
        (
            {"targets": (Metric("cpu_percent", 0.0, 90.0), SCHEMA.targets[1])},
            r"its target metrics are cpu_percent \[0.0, 90.0",
        ),
        ({"observed": ()}, "its observed metrics are none instead of temperature"),
        ({"static_reals": ("cores", "disks")}, "its static columns are cores, disks instead of co"),
        ({"step_seconds": 300}, "the seconds of its step are 300 instead of 3600"),
        ({"prediction_horizon": 5}, "the steps of its horizon are 5 instead of 6"),
        ({"quantiles": (0.1, 0.5)}, "its quantiles are 0.1, 0.5 instead of 0.1, 0.5, 0.9"),
        ({"days_before": 29}, "it looks back 696 ticks and 672 are kept"),
        ({"context_length": 700}, "it looks back 700 ticks and 672 are kept"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_by_what_differs(
    shelf: ModelShelf, models: Path, changes: dict[str, Any], message: str
) -> None:
    shelf.reload("newer")
    before = shelf.current, shelf.previous
    bundle(models / "other", schema=replace(SCHEMA, **changes))
    with pytest.raises(ValueError, match=f"other: does not fit the running service, {message}"):
        shelf.reload("other")
    assert (shelf.current, shelf.previous) == before


def test_other_profiles_and_a_shorter_context_fit(shelf: ModelShelf, models: Path) -> None:
    """And the first model fits again afterwards: history is kept for it."""
    schema = replace(SCHEMA, context_length=20, days_before=1, profiles=("cache",))
    bundle(models / "short", seed=5, schema=schema)
    assert shelf.reload("short").forecaster.schema == schema
    assert shelf.reload("newer").forecaster.schema == SCHEMA


def damaged(folder: Path) -> None:
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")


@pytest.mark.parametrize("break_it", [damaged, shutil.rmtree])
def test_a_damaged_model_is_refused_and_the_current_one_stays(
    shelf: ModelShelf, models: Path, break_it: Callable[[Path], None]
) -> None:
    current = shelf.current
    break_it(models / "newer")
    with pytest.raises(ValueError, match="newer"):
        shelf.reload("newer")
    assert shelf.current is current and shelf.previous is None


def test_a_bundle_replaced_while_it_is_read_gets_nobody_elses_hash(
    shelf: ModelShelf, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(folder: Path, device: str) -> Any:
        bundle(folder, seed=6)
        return load_forecaster(folder, device)

    monkeypatch.setattr("serve.models.load_forecaster", slowly)
    with pytest.raises(ValueError, match="replaced while it was read"):
        shelf.reload("newer")


def test_readers_see_the_old_model_until_the_new_one_is_whole(
    shelf: ModelShelf, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[LoadedModel] = []

    def watched(folder: Path, device: str) -> Any:
        seen.append(shelf.current)
        return load_forecaster(folder, device)

    monkeypatch.setattr("serve.models.load_forecaster", watched)
    first = shelf.current
    assert shelf.reload("newer") is not first and seen == [first]
