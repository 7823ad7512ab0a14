"""Checkpoints that are whole, verified and few.

A checkpoint is one file named by its step, its validation loss where an epoch ended with it, and
the hash of its content. It is written under a temporary name, synced and renamed; one whose
content does not have the hash in its name is not loaded. Loading runs no code (`weights_only`).
"""

import hashlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tft.files import write_atomically

VERSION = 5
KEPT_BEST = 3  # by validation loss, besides the newest
NAME = re.compile(r"step-(\d{9})(?:-val-([0-9.e+-]+))?-([0-9a-f]{16})\.pt")


class CheckpointName(NamedTuple):
    """What a file name says."""

    path: Path
    step: int
    validation_loss: float | None
    digest: str


def save_checkpoint(
    folder: Path, state: dict[str, Any], step: int, validation_loss: float | None = None
) -> Path:
    """Write a checkpoint and remove those no longer worth keeping.

    Args:
        folder: where checkpoints are.
        state: tensors, numbers, texts, and lists and dicts of them.
        step: steps taken in all.
        validation_loss: of the epoch that ended with this step, if one did.
    """
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **state}, buffer)
    blob = buffer.getvalue()
    loss = "" if validation_loss is None else f"-val-{validation_loss:.8g}"
    path = folder / f"step-{step:09d}{loss}-{_digest(blob)}.pt"
    write_atomically(path, blob)
    _prune(folder, path)
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read one checkpoint, onto the CPU.

    Raises:
        ValueError: it is damaged, cut short, or no checkpoint of this version.
    """
    name = _parse(path)
    if name is None:
        raise ValueError(f"{path}: not a checkpoint's name; expected step-...-HASH.pt")
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error})") from error
    if _digest(blob) != name.digest:
        raise ValueError(f"{path}: damaged, its content has not the hash in its name")
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file makes the unpickler raise
        raise ValueError(f"{path}: not a checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("version") != VERSION:
        raise ValueError(f"{path}: not a checkpoint of version {VERSION}; train again")
    return state


def newest_checkpoint(
    folder: Path, say: Callable[[str], None]
) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest checkpoint that verifies, telling of each that does not, or None."""
    for name in sorted(_list(folder), key=lambda name: name.step, reverse=True):
        try:
            return name.path, load_checkpoint(name.path)
        except ValueError as error:
            say(f"skipping {error}")
    return None


def forget_after(folder: Path, step: int) -> None:
    """Remove checkpoints of steps that a training which goes on from `step` takes again."""
    for name in _list(folder):
        if name.step > step:
            name.path.unlink()


def _prune(folder: Path, written: Path) -> None:
    """Keep the one just written and the best few."""
    names = _list(folder)
    scored = [name for name in names if name.validation_loss is not None]
    best = sorted(scored, key=lambda name: (name.validation_loss, name.step))[:KEPT_BEST]
    for name in names:
        if name not in best and name.path != written:
            name.path.unlink()


def _list(folder: Path) -> list[CheckpointName]:
    if not folder.is_dir():
        return []
    return [name for path in folder.iterdir() if (name := _parse(path)) is not None]


def _parse(path: Path) -> CheckpointName | None:
    match = NAME.fullmatch(path.name)
    if match is None:
        return None
    step, loss, digest = match.groups()
    return CheckpointName(path, int(step), None if loss is None else float(loss), digest)


def _digest(blob: bytes) -> str:
    return hashlib.sha256(blob).hexdigest()[:16]
