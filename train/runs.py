"""Opening what a training left behind."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from tft.bundle import MANIFEST, load_forecaster
from tft.forecaster import Forecaster
from train.device import choose_device
from train.run_dir import CONFIG, MODEL_DIR

REMEMBERED = ("timestamp", "server_name", "profile", "timezone")  # of the table's columns


class OpenRun(NamedTuple):
    """A forecaster and how the table it was trained on was read."""

    directory: Path
    forecaster: Forecaster
    data: Path | None
    """The table, None where only the model was kept."""
    columns: dict[str, Any]
    """Names of its key columns and its time zone, as far as they are known."""


def open_run(run: Path, device: str) -> OpenRun:
    """Load a run directory, or the model folder in it, or one copied out of it.

    Raises:
        ValueError: there is no forecaster, it is damaged, or the device is none.
    """
    chosen = choose_device(device)
    if run.is_file():
        raise ValueError(f"{run} is a file; expected a run directory, as `train` prints it")
    directory, model = run, run / MODEL_DIR
    if (run / MANIFEST).exists():
        model = run
        if (run.resolve().parent / CONFIG).exists():
            directory = run.resolve().parent
    forecaster = load_forecaster(model, str(chosen))
    if not (directory / CONFIG).exists():
        return OpenRun(directory, forecaster, None, {})
    data = read_config(directory)["data"]
    columns = {key: data["spec"][key] for key in REMEMBERED if key in data["spec"]}
    return OpenRun(directory, forecaster, Path(data["path"]), columns)


def read_config(run: Path) -> dict[str, Any]:
    """Read a run's config.json.

    Raises:
        ValueError: the directory holds no run.
    """
    try:
        config = json.loads((run / CONFIG).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{run}: no run directory, {CONFIG} cannot be read ({error}); expected one `train` "
            "wrote"
        ) from error
    whole = isinstance(config, dict) and isinstance(config.get("train"), dict)
    data = config.get("data") if whole else None
    if not (
        isinstance(data, dict)
        and isinstance(data.get("path"), str)
        and isinstance(data.get("spec"), dict)
    ):
        raise ValueError(f"{run / CONFIG}: not as `train` writes it; restore it, or train again")
    return config
