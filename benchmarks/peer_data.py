"""What a peer is given and gives back, as .npz files: peers may run under another interpreter.

Rests on numpy alone. A peer sees the same rows on the same grid as the project's forecaster, and of
a window to forecast the day before it, never what came.

n windows, D ticks in a day, H horizon steps, M metrics (targets first), R static reals.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from data.fleet import Fleet, FloatArray, IntArray

TRAINING, WINDOWS = "training.npz", "windows.npz"
QUANTILES = (0.1, 0.5, 0.9)  # what is judged; peers train for no other
CONTEXT = 288  # ticks of history a peer sees: a day of five minutes
VALIDATION_SHARE = 0.2  # of the training span, at its end: the project's default too


@dataclass(frozen=True)
class PeerWindows:
    """Windows to forecast."""

    history: FloatArray  # [n, D, M], NaN where missing; targets are all seen
    origin: IntArray  # [n] absolute ticks, the first to forecast
    server: npt.NDArray[np.str_]  # [n]
    profile: npt.NDArray[np.str_]  # [n], "" where there is none
    static: FloatArray  # [n, R], NaN where missing
    horizon: int
    num_targets: int


def save_windows(windows: PeerWindows, folder: Path) -> None:
    """Write them for `load_windows`."""
    values: dict[str, Any] = {f.name: getattr(windows, f.name) for f in fields(windows)}
    np.savez(folder / WINDOWS, **values)


def load_windows(folder: Path) -> PeerWindows:
    """Read what `save_windows` wrote."""
    with np.load(folder / WINDOWS) as file:
        values: dict[str, Any] = {name: file[name] for name in file.files}
    for name in ("horizon", "num_targets"):
        values[name] = int(values[name])
    return PeerWindows(**values)


def save_fleet(fleet: Fleet, folder: Path) -> None:
    """Write a fleet for `load_fleet`."""
    np.savez(
        folder / TRAINING,
        **{f.name: getattr(fleet, f.name) for f in fields(fleet) if f.name != "profiles"},
        profiles=[profile or "" for profile in fleet.profiles],
    )


def load_fleet(folder: Path) -> Fleet:
    """Read what `save_fleet` wrote."""
    with np.load(folder / TRAINING) as file:
        values: dict[str, Any] = {name: file[name] for name in file.files}
    for name in ("servers", "metrics", "static_names"):
        values[name] = tuple(values[name].tolist())
    values["profiles"] = tuple(profile or None for profile in values["profiles"].tolist())
    values["step_seconds"] = int(values["step_seconds"])
    return Fleet(**values)


def windows_of(
    fleet: Fleet,
    server: IntArray,
    origin: IntArray,
    history: FloatArray,
    horizon: int,
    targets: int,
) -> PeerWindows:
    """Put together what a peer may know of windows: [n] servers and origins, [n, D, M] history."""
    return PeerWindows(
        history=history,
        origin=origin,
        server=np.array(fleet.servers)[server],
        profile=np.array([profile or "" for profile in fleet.profiles])[server],
        static=fleet.static[server],
        horizon=horizon,
        num_targets=targets,
    )
