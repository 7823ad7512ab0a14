"""How fast exported files forecast beside the bundle, on a CPU: `python -m benchmarks.export`.

A forecaster of the default sizes with random weights is exported as a torch.export program and to
ONNX. Each form gets the same raw windows in memory, full histories with nothing missing, in one
batch; the forms take turns, after one untimed forecast each. PyTorch and onnxruntime are given as
many threads as PyTorch has. How far the forecasts are apart is measured on the same windows, in
spreads of a window.
"""

import json
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from benchmarks.inference import median_and_worst, random_forecaster, random_windows, seconds
from benchmarks.machine import measured_on
from benchmarks.sizes import parse_sizes
from tft.export import (
    ENDINGS,
    Forecast,
    export_forecaster,
    largest_difference,
    load_onnx,
    load_torch,
)
from tft.forecaster import Forecaster

HEADER = ("windows", "form", "median s", "worst s", "windows/s", "spreads apart")


@click.command()
@click.option("--windows", "sizes", default="1,20,160", callback=parse_sizes, show_default=True)
@click.option("--repeats", type=click.IntRange(1), default=15, show_default=True)
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write the record.")
def export(sizes: tuple[int, ...], repeats: int, record: Path | None) -> None:
    """Measure forecasts of exported files beside those of the bundle."""
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
    forecaster = random_forecaster()
    forms, files = exported_forms(forecaster)
    rows = []
    for size in sizes:
        click.echo(f"windows: {size:,}", err=True)
        rows += measure_size(forecaster, forms, size, repeats)
    table = [HEADER, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        click.echo("  ".join(map(str.rjust, line, widths)))
    if record is not None:
        libraries = {name: version(name) for name in ("onnx", "onnxruntime", "onnxscript")}
        content = {"on": measured_on(), "with": libraries, "files": files, "forecasts": rows}
        record.write_text(json.dumps(content, indent=1) + "\n")


def exported_forms(forecaster: Forecaster) -> tuple[dict[str, Forecast], dict[str, Any]]:
    """Export to every format; return what forecasts, the bundle first, and facts of the files."""
    forms: dict[str, Forecast] = {"bundle": forecaster.forecast}
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for file_format, ending in ENDINGS.items():
            click.echo(f"exporting as {file_format}", err=True)
            path = Path(folder) / f"model{ending}"
            took = seconds(lambda: export_forecaster(forecaster, file_format, path))  # noqa: B023
            files[file_format] = {"export_seconds": took, "bytes": path.stat().st_size}
            blob = path.read_bytes()
            forms[file_format] = (
                load_torch(blob)
                if file_format == "torch"
                else load_onnx(blob, torch.get_num_threads())
            )
    return forms, files


def measure_size(
    forecaster: Forecaster, forms: Mapping[str, Forecast], size: int, repeats: int
) -> list[dict[str, Any]]:
    """Time forecasts of a batch, a row for each form."""
    windows = random_windows(size)
    apart = {name: largest_difference(forecaster, form, windows) for name, form in forms.items()}
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(repeats):
        for name, form in forms.items():
            times[name].append(seconds(lambda: form(windows)))  # noqa: B023  (called at once)
    return [
        {"windows": size, "form": name, **median_and_worst(each)}
        | {"windows_per_second": size / median(each), "spreads_apart": apart[name]}
        for name, each in times.items()
    ]


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Write a row's numbers, as in `HEADER`."""
    return (
        f"{row['windows']:,}",
        row["form"],
        f"{row['median_seconds']:.4f}",
        f"{row['worst_seconds']:.4f}",
        f"{row['windows_per_second']:,.0f}",
        f"{row['spreads_apart']:.1e}",
    )


if __name__ == "__main__":
    export()
