"""Which model forecasts: one at a time, swapped whole, the one before kept to go back to.

A bundle is read and verified by `tft.bundle`: numbers and JSON, never code.
"""

import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serve.outlook import ModelIdentity
from tft.bundle import MANIFEST, load_forecaster
from tft.forecaster import Forecaster
from tft.schema import FeatureSchema, Metric

# A name from a client never becomes a path: no separator, nothing that begins with a dot.
NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
MODEL_DIR = "model"  # of a run directory, as `train.run_dir` names it
HASH_DIGITS = 12
MUST_AGREE = {  # fields of the schema, and what they are
    "targets": "its target metrics",
    "observed": "its observed metrics",
    "static_reals": "its static columns",
    "step_seconds": "the seconds of its step",
    "prediction_horizon": "the steps of its horizon",
    "quantiles": "its quantiles",
}


@dataclass(frozen=True)
class LoadedModel:
    """A forecaster in memory."""

    folder: Path
    """Of its bundle."""
    forecaster: Forecaster
    """In evaluation mode."""
    identity: ModelIdentity


class ModelShelf:
    """The current model and the one before; reading them never waits for a swap."""

    def __init__(self, bundle: Path, models: Path | None = None, device: str = "cpu") -> None:
        """Load the first model, for which everything else in the service is made.

        Args:
            bundle: folder of the first model.
            models: folder of bundles, or of run directories, that clients may name; None: none.
            device: where forecasts are made.

        Raises:
            ValueError: the folder is no whole bundle.
        """
        self._models, self._device = models, device
        self._swapping = threading.Lock()
        first = _load(bundle, device)
        self._schema = first.forecaster.schema
        self._pair: tuple[LoadedModel, LoadedModel | None] = (first, None)  # replaced as one

    @property
    def current(self) -> LoadedModel:
        """The model that forecasts."""
        return self._pair[0]

    @property
    def previous(self) -> LoadedModel | None:
        """The model that `rollback` goes back to."""
        return self._pair[1]

    def reload(
        self, name: str | None = None, check: Callable[[LoadedModel], object] | None = None
    ) -> LoadedModel:
        """Load a model and make it the current one; the same weights again change nothing.

        Args:
            name: of a folder in the models directory; None: the current model's own folder.
            check: of what comes with another model; a ValueError of it refuses the model.

        Raises:
            ValueError: there is no such model, it is damaged, or it does not fit the service; the
                current model stays.
        """
        with self._swapping:
            folder = self.current.folder if name is None else self._named(name)
            model = _load(folder, self._device)
            _refuse_misfit(model, self._schema)
            if model.identity != self.current.identity:
                if check is not None:
                    check(model)
                self._pair = (model, self.current)
            return self.current

    def rollback(self) -> LoadedModel:
        """Swap the current model and the one before.

        Raises:
            ValueError: there is none before.
        """
        with self._swapping:
            current, previous = self._pair
            if previous is None:
                raise ValueError("no model came before the current one; nothing to go back to")
            self._pair = (previous, current)
            return previous

    def _named(self, name: str) -> Path:
        """Return the bundle folder of a name from a client."""
        if not NAME.fullmatch(name):
            raise ValueError(
                f"model name {name[:100]!r}: expected letters, digits, '.', '_' and '-', "
                "at most 100, not beginning with '.'"
            )
        if self._models is None:
            raise ValueError("the service was started without a models directory to load from")
        folder = self._models / name
        if not folder.is_dir():
            raise ValueError(f"no model {name!r} in the models directory")
        return folder if (folder / MANIFEST).is_file() else folder / MODEL_DIR


def _load(folder: Path, device: str) -> LoadedModel:
    """Read a bundle and the hash it was verified by."""
    before = _weights_hash(folder)
    forecaster = load_forecaster(folder, device)
    if before is None or _weights_hash(folder) != before:
        raise ValueError(f"{folder}: was replaced while it was read; load it again")
    trained_until = forecaster.facts.end_tick * forecaster.schema.step_seconds
    return LoadedModel(folder, forecaster, ModelIdentity(before[:HASH_DIGITS], trained_until))


def _weights_hash(folder: Path) -> str | None:
    """Return what the manifest says of the weights; None, and `load_forecaster` says why not."""
    try:
        return str(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["weights_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _refuse_misfit(model: LoadedModel, running: FeatureSchema) -> None:
    """Refuse a model that the kept history, the alert rules or the readers were not made for."""
    schema = model.forecaster.schema
    for field, what in MUST_AGREE.items():
        found, expected = getattr(schema, field), getattr(running, field)
        if found != expected:
            raise ValueError(
                f"{model.folder}: does not fit the running service, {what} are {_told(found)} "
                f"instead of {_told(expected)}; start a service with it"
            )
    if _ticks_back(schema) > _ticks_back(running):
        raise ValueError(
            f"{model.folder}: does not fit the running service, it looks back "
            f"{_ticks_back(schema)} ticks and {_ticks_back(running)} are kept; start a service "
            "with it"
        )


def _told(value: Any) -> str:
    """Write a field of the schema; metrics with their bounds, by which history was read."""
    if not isinstance(value, tuple):
        return f"{value}"
    return (
        ", ".join(
            f"{each.name} [{each.lower}, {each.upper}]" if isinstance(each, Metric) else f"{each}"
            for each in value
        )
        or "none"
    )


def _ticks_back(schema: FeatureSchema) -> int:
    """Return how many ticks before its origin a window reads."""
    return max(schema.context_length, schema.earlier_ticks)
