"""How fast a trained forecaster answers: `python -m benchmarks.inference`.

Forecasts are of raw windows in memory by a forecaster of the default sizes with random weights: to
the device, through the network, back to the CPU, at most 256 windows at a time. One batch goes
ahead untimed; from 1,000 servers on two repeats suffice, as each is of many batches. At 160 servers
the layers that run by default and the readable ones are measured in turn.

Then what a person waits for: from a Parquet file of 20 servers and 2 days to one of forecasts, the
forecaster and the libraries being loaded; and in fresh processes, medians of five, `cli.py --help`
and what `import tft.model` adds to `import torch`, as the difference between processes and within
one. Goals are judged by medians.

B servers, T context, H horizon, L = T + H, M metrics.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from benchmarks.machine import ROOT, measured_on
from benchmarks.sizes import parse_sizes
from tft.batch import WindowBatch
from tft.fast_path import use_fast_path
from tft.forecaster import Forecaster, network_config
from tft.model import TFT
from tft.normalise import WindowNormaliser
from tft.schema import FeatureSchema, Metric
from train.config import TrainConfig

SCHEMA = FeatureSchema(  # makes the network of benchmarks/blocks.py
    targets=(
        Metric("cpu_percent", 0.0, 100.0),
        Metric("memory_percent", 0.0, 100.0),
        Metric("disk_percent", 0.0, 100.0),
        Metric("load_average", 0.0),
    ),
    observed=(Metric("network_in_mbps"), Metric("network_out_mbps"), Metric("swap_percent")),
    profiles=tuple(f"profile-{number}" for number in range(7)),
)
BATCH_SIZE = 256  # windows at a time, as in data/forecasts.py: memory stays that of these
MANY, FEW_REPEATS = 1000, 2  # from so many servers on, so many repeats
BOTH_PATHS = 160  # servers at which the readable path is measured too
FILE_SERVERS, FILE_DAYS = 20, 2
PROCESSES = 5  # fresh ones, of each kind
START = 1_767_571_200  # 2026-01-05T00:00:00Z, a Monday
WINDOWS_PER_SECOND = 3000.0  # goals: at 160 servers on a CPU, at least; all others are at most
MANY_SECONDS, FILE_SECONDS, IMPORT_SECONDS, HELP_SECONDS = 0.2, 1.0, 0.1, 0.3
HEADER = ("servers", "layers", "repeats", "median s", "worst s", "windows/s")


@click.command()
@click.option(
    "--servers", "sizes", default="1,20,160,10000", callback=parse_sizes, show_default=True
)
@click.option("--repeats", type=click.IntRange(1), default=7, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write the record.")
def inference(sizes: tuple[int, ...], repeats: int, device: str, record: Path | None) -> None:
    """Measure forecasts in memory, from file to file, and what starting costs."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.BadParameter("no CUDA device here", param_hint="--device")
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
    forecaster = random_forecaster().to(device)
    rows = []
    for size in sizes:
        click.echo(f"servers: {size:,}", err=True)
        rows += measure_size(forecaster, size, repeats)
    click.echo("from file to file, and fresh processes", err=True)
    measured = {
        "device": device,
        "batch_size": BATCH_SIZE,
        "forecasts": rows,
        "file_to_file": measure_files(forecaster, repeats),
        "fresh_processes": measure_starts(),
    }
    goals = judge(measured)
    click.echo(as_text(measured, goals))
    if record is not None:
        content = {"on": measured_on(), **measured, "goals": goals}
        record.write_text(json.dumps(content, indent=1) + "\n")


def random_forecaster() -> Forecaster:
    """Return a forecaster of the default sizes with random weights, in evaluation mode."""
    torch.manual_seed(0)
    normaliser = WindowNormaliser(len(SCHEMA.metrics), len(SCHEMA.static_reals))
    network = TFT(network_config(SCHEMA, patch_length=TrainConfig.patch_length))
    return Forecaster(SCHEMA, network, normaliser).eval()


def random_windows(servers: int) -> WindowBatch:
    """Return raw windows of as many servers: full histories, nothing missing, future unknown."""
    T, H, K = SCHEMA.context_length, SCHEMA.prediction_horizon, len(SCHEMA.known)
    turns = torch.rand(servers, T + H, K, 1) * 2 * torch.pi
    profiles = torch.randint(len(SCHEMA.profiles) + 1, (servers,))
    return WindowBatch(
        past=torch.rand(servers, T, len(SCHEMA.metrics)) * 100,
        known=torch.cat([turns.cos(), turns.sin()], dim=-1),
        static_reals=torch.rand(servers, len(SCHEMA.static_reals)),
        static_codes=torch.stack([torch.randint(SCHEMA.server_buckets, (servers,)), profiles], 1),
        history_length=torch.full((servers,), T),
        future=torch.full((servers, H, len(SCHEMA.targets)), torch.nan),
        earlier=torch.rand(servers, SCHEMA.earlier_ticks, len(SCHEMA.targets)) * 100,
    )


def measure_size(forecaster: Forecaster, servers: int, repeats: int) -> list[dict[str, Any]]:
    """Time forecasts of all servers, a row for each path measured."""
    windows, device = random_windows(servers), forecaster.quantiles.device
    if servers >= MANY:
        repeats = min(repeats, FEW_REPEATS)
    both = servers == BOTH_PATHS and device.type == "cpu"  # a GPU runs the readable one either way
    paths = ("readable", "as run") if both else ("as run",)
    times: dict[str, list[float]] = {path: [] for path in paths}
    for path in paths:  # warm up
        use_fast_path(forecaster, fast=path == "as run")
        forecast_all(forecaster, part_of(windows, 0), device)
    for _ in range(repeats):
        for path in paths:
            use_fast_path(forecaster, fast=path == "as run")
            times[path].append(seconds(lambda: forecast_all(forecaster, windows, device)))
    return [
        {"servers": servers, "layers": path, **median_and_worst(each)}
        | {"windows_per_second": servers / median(each)}
        for path, each in times.items()
    ]


def forecast_all(forecaster: Forecaster, windows: WindowBatch, device: torch.device) -> None:
    """Forecast windows on the CPU, batch by batch; each forecast comes back to the CPU."""
    for start in range(0, len(windows.past), BATCH_SIZE):
        part = part_of(windows, start).to(device)
        forecaster.forecast(part).cpu()  # [B, H, M, Q]; waits for the device


def part_of(windows: WindowBatch, start: int) -> WindowBatch:
    """Return the batch of windows that begins at `start`."""
    return WindowBatch(*(tensor[start : start + BATCH_SIZE] for tensor in windows))


def measure_files(forecaster: Forecaster, repeats: int) -> dict[str, Any]:
    """Time reading a table, forecasting and writing; says why where that cannot be done here."""
    try:
        import pyarrow.parquet as pq

        from data.forecasts import latest_origins, write_forecasts
        from data.reading import read_fleet
    except ImportError as error:
        return {"left_out": str(error)}

    with tempfile.TemporaryDirectory() as folder:
        table, out = Path(folder) / "table.parquet", Path(folder) / "forecasts.parquet"
        pq.write_table(random_table(), table)

        def file_to_file() -> None:
            fleet = read_fleet(table, schema=SCHEMA).fleet
            origins = latest_origins(fleet, SCHEMA)
            rows = write_forecasts(forecaster, fleet, origins, out, SCHEMA.quantiles)
            assert rows == FILE_SERVERS * SCHEMA.prediction_horizon * len(SCHEMA.targets)

        first = seconds(file_to_file)  # sets up what the libraries leave to their first use
        each = [seconds(file_to_file) for _ in range(repeats)]
    facts = {"servers": FILE_SERVERS, "days": FILE_DAYS, "first_seconds": first}
    return facts | median_and_worst(each)


def random_table() -> Any:
    """Return rows of every metric as a `pyarrow.Table`, server by server."""
    import pyarrow as pa

    ticks = torch.arange(FILE_DAYS * 86_400 // SCHEMA.step_seconds)
    milliseconds = 1000 * (START + SCHEMA.step_seconds * ticks)
    names = [f"server-{number:02}" for number in range(FILE_SERVERS) for _ in ticks]
    metrics = {
        name: (torch.rand(len(names)) * 100).round(decimals=1).numpy()
        for name in SCHEMA.metric_names
    }
    times = pa.array(milliseconds.repeat(FILE_SERVERS).numpy(), pa.timestamp("ms", "UTC"))
    return pa.table({"timestamp": times, "server_name": names, **metrics})


def measure_starts() -> dict[str, Any]:
    """Time imports and help in fresh processes, in turn; medians in seconds."""
    alone, before, both, helps = [], [], [], []
    for _ in range(PROCESSES):
        alone += import_seconds("torch")
        torch_seconds, both_seconds = import_seconds("torch", "tft.model")
        before.append(torch_seconds)
        both.append(both_seconds)
        helps.append(seconds(lambda: run_python("cli.py", "--help")))
    after = [b - t for b, t in zip(both, before, strict=True)]
    return {
        "processes": PROCESSES,
        "import_torch_seconds": median(alone),
        "import_torch_and_tft_model_seconds": median(both),
        "difference_seconds": median(both) - median(alone),
        "tft_model_after_torch_seconds": median(after),
        "help_seconds": median(helps),
        "help_worst_seconds": max(helps),
    }


def import_seconds(*modules: str) -> list[float]:
    """Import modules in a fresh interpreter; return the seconds from its first import to each."""
    lines = ["import time; started = time.perf_counter()"]
    lines += [f"import {name}; print(time.perf_counter() - started)" for name in modules]
    return [float(line) for line in run_python("-c", "\n".join(lines)).split()]


def run_python(*arguments: str) -> str:
    """Run Python in the repository and return what it prints."""
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise click.ClickException(f"python {arguments[0]} failed, see above")
    return done.stdout


def seconds(work: Callable[[], object]) -> float:
    """Time one call that waits for its device."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median_and_worst(each: Sequence[float]) -> dict[str, Any]:
    """Sum up the times of repeats, in seconds."""
    return {"repeats": len(each), "median_seconds": median(each), "worst_seconds": max(each)}


def judge(measured: dict[str, Any]) -> list[dict[str, Any]]:
    """Tell which goals hold by the medians; what was not measured is not judged."""
    starts, files = measured["fresh_processes"], measured["file_to_file"]
    goals = []

    def at_most(goal: str, value: float, limit: float) -> None:
        goals.append(
            {
                "goal": goal,
                "measured": value,
                "unit": "s",
                "at_most": limit,
                "holds": value <= limit,
            }
        )

    for row in measured["forecasts"]:
        if row["servers"] != BOTH_PATHS or row["layers"] != "as run":
            continue
        if measured["device"] == "cpu":
            rate = row["windows_per_second"]
            goals.append(
                {
                    "goal": f"windows a second at {BOTH_PATHS} servers on a CPU",
                    "measured": rate,
                    "unit": "windows/s",
                    "at_least": WINDOWS_PER_SECOND,
                    "holds": rate >= WINDOWS_PER_SECOND,
                }
            )
        at_most(f"forecasts of {BOTH_PATHS} servers", row["median_seconds"], MANY_SECONDS)
    if "left_out" not in files:
        at_most(f"{FILE_SERVERS} servers, file to file", files["median_seconds"], FILE_SECONDS)
    # In one process: the difference of two imports of torch is mostly theirs.
    after = starts["tft_model_after_torch_seconds"]
    at_most("import tft.model after import torch", after, IMPORT_SECONDS)
    at_most("cli.py --help", starts["help_seconds"], HELP_SECONDS)
    return goals


def as_text(measured: dict[str, Any], goals: Sequence[dict[str, Any]]) -> str:
    """Lay out the forecasts as a table, the other figures, and a verdict on each goal."""
    table = [HEADER, *map(cells, measured["forecasts"])]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(map(str.rjust, line, widths)) for line in table]
    files, starts = measured["file_to_file"], measured["fresh_processes"]
    if "left_out" in files:
        file_line = f"file to file: left out, {files['left_out']}"
    else:
        file_line = (
            f"file to file, {files['servers']} servers x {files['days']} days: median "
            f"{files['median_seconds']:.3f} s, worst {files['worst_seconds']:.3f} s, "
            f"the first {files['first_seconds']:.3f} s"
        )
    import_line = (
        f"import torch {starts['import_torch_seconds']:.3f} s, with tft.model "
        f"{starts['import_torch_and_tft_model_seconds']:.3f} s, difference "
        f"{starts['difference_seconds']:.3f} s; in one process "
        f"{starts['tft_model_after_torch_seconds']:.3f} s"
    )
    helps = f"{starts['help_seconds']:.3f} s, worst {starts['help_worst_seconds']:.3f} s"
    others = [file_line, import_line, f"cli.py --help {helps}"]
    return "\n".join([*lines, "", *others, "", *map(verdict, goals)])


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Write a row's numbers, as in `HEADER`."""
    return (
        f"{row['servers']:,}",
        row["layers"],
        str(row["repeats"]),
        f"{row['median_seconds']:.4f}",
        f"{row['worst_seconds']:.4f}",
        f"{row['windows_per_second']:,.0f}",
    )


def verdict(goal: dict[str, Any]) -> str:
    """Say in a line whether a goal holds, with the number."""
    bound = (
        f"at most {goal['at_most']:g}" if "at_most" in goal else f"at least {goal['at_least']:g}"
    )
    measured = f"{goal['measured']:,.0f}" if goal["measured"] > 100 else f"{goal['measured']:.3f}"
    holds = "holds" if goal["holds"] else "does not hold"
    return f"{holds}: {goal['goal']}: {measured} {goal['unit']} (goal: {bound})"


if __name__ == "__main__":
    inference()
