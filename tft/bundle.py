"""A forecaster on disk: safetensors for numbers, JSON for everything else, no code.

A bundle is a folder with `forecaster.json`, which names the weights file and its hash. New weights
are written beside the old ones and the JSON is replaced last, so at every instant the folder holds
one whole forecaster.
"""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from tft.files import write_atomically
from tft.forecaster import Forecaster, TrainingFacts
from tft.model import TFT, TFTConfig
from tft.normalise import WindowNormaliser
from tft.schema import FeatureSchema

FORMAT, VERSION = "fleet-tft", 5
MANIFEST = "forecaster.json"


def save_forecaster(forecaster: Forecaster, folder: str | os.PathLike[str]) -> None:
    """Write a bundle, replacing the one in `folder` if there is one."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weights = packed_weights(forecaster)
    digest = hashlib.sha256(weights).hexdigest()
    weights_name = f"weights-{digest[:12]}.safetensors"
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "weights": weights_name,
        "weights_sha256": digest,
        "schema": forecaster.schema.to_dict(),
        "network": asdict(forecaster.network.config),
        "unknown_rate": forecaster.unknown_rate,
        "calendar_dropout": forecaster.calendar_dropout,
        "calibrated": forecaster.calibration is not None,
        "training": asdict(forecaster.facts),
    }
    write_atomically(folder / weights_name, weights)
    write_atomically(folder / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    for old in folder.glob("weights-*.safetensors"):
        if old.name != weights_name:
            old.unlink()


def packed_weights(forecaster: Forecaster) -> bytes:
    """Return the weights as the content of a safetensors file; its hash is their identity."""
    tensors = {name: t.detach().cpu().contiguous() for name, t in forecaster.state_dict().items()}
    return save_tensors(tensors)


def load_forecaster(folder: str | os.PathLike[str], device: str = "cpu") -> Forecaster:
    """Read a bundle, in evaluation mode.

    Raises:
        ValueError: the folder is no bundle, of another version, damaged, or contradicts itself.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder / MANIFEST)
    try:
        schema = FeatureSchema.from_dict(manifest["schema"])
        config = TFTConfig(**_tuples(manifest["network"]))
        facts = TrainingFacts(**_tuples(manifest["training"]))
        weights_name, digest = manifest["weights"], manifest["weights_sha256"]
        forecaster = Forecaster(
            schema,
            TFT(config),
            WindowNormaliser(len(schema.metrics), len(schema.static_reals)),
            unknown_rate=float(manifest["unknown_rate"]),
            calendar_dropout=float(manifest["calendar_dropout"]),
            facts=facts,
        )
        if manifest["calibrated"]:
            gaps = schema.prediction_horizon, len(schema.targets), len(schema.quantiles) - 1
            forecaster.calibration = torch.ones(gaps)  # to be overwritten
        if not isinstance(facts.end_tick, int) or not isinstance(weights_name, str):
            raise ValueError("training or weights hold no numbers or names")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder / MANIFEST}: schema does not match this program: {error}; train again, or "
            "use the version of the program that wrote it"
        ) from error
    forecaster.load_state_dict(_read_weights(folder, weights_name, digest, forecaster))
    return forecaster.to(device).eval()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path.parent}: no {MANIFEST}; expected a folder `train` wrote") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); restore it or train") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{path}: not a {FORMAT} forecaster; expected a folder `train` wrote")
    if manifest.get("version") != VERSION:
        raise ValueError(
            f"{path}: bundle version {manifest.get('version')}, this program reads {VERSION}; "
            "train again, or use the version of the program that wrote it"
        )
    return manifest


def _read_weights(
    folder: Path, name: str, digest: str, forecaster: Forecaster
) -> dict[str, torch.Tensor]:
    """Read, verify and shape-check the weights; nothing but numbers is ever loaded."""
    path = folder / name
    if path.parent != folder:
        raise ValueError(f"{folder / MANIFEST}: weights {name!r} must be a file in the same folder")
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: weights not readable ({error}); restore or train") from error
    if hashlib.sha256(blob).hexdigest() != digest:
        raise ValueError(
            f"{path}: damaged, its hash is not the one in {MANIFEST}; restore or train"
        )
    try:
        tensors = load_tensors(blob)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a safetensors file ({error})") from error
    expected = {key: tensor.shape for key, tensor in forecaster.state_dict().items()}
    found = {key: tensor.shape for key, tensor in tensors.items()}
    wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
    if wrong:
        key = wrong[0]
        raise ValueError(
            f"{path}: {len(wrong)} tensors do not fit the schema, first {key!r}: found "
            f"{found.get(key)}, expected {expected.get(key)}"
        )
    return tensors


def _tuples(plain: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where the dataclasses have tuples."""
    return {key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()}
