"""Check the claim "6x faster, 44 % less memory, 20 % better": `python -m benchmarks.speed`.

Documented, of the reference stack and mostly on an RTX 4090: 24 hours of 20 servers, 20 epochs, in
four phases. Here the same four ways of training (`benchmarks.phases`) are measured on one machine,
with the same windows, epochs and seed:

* Training: 20 epochs on the documented data set, for real. A way that trains one model for each of
  four metrics trains one of them, and its time is multiplied, unless `--full` asks for all four.
* Steps: steady-state training at 288 + 96 ticks, of every way in turn, several rounds, medians. The
  documented data set has no window with 24 hours of history in its training part; this one has no
  other. Windows per second are the fair unit; one model of four metrics does four models' work.

Peak memory is that of the steps: above libraries, data and weights.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch

from benchmarks.machine import ROOT, measured_on
from benchmarks.phases import METRICS, OWNED, PHASES, Task, configured
from benchmarks.sizes import parse_sizes
from cli import PROFILES
from data.synthetic import FleetSpec, write_fleet
from report.console import ProgressLine
from tft.files import write_atomically

Row = dict[str, Any]
FIRST, LAST = "baseline", "phase 3"
CLAIMS = {"times as fast": 6.0, "% less memory": 44.0, "% better": 20.0}
STEP_HOURS = 120  # of the data set for steps: four days' windows with a whole day of history
EPOCHS = 20


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--hours", type=click.IntRange(23), default=24, show_default=True, help="Of data.")
@click.option("--servers", type=click.IntRange(1), default=20, show_default=True)
@click.option("--epochs", type=click.IntRange(1), default=EPOCHS, show_default=True)
@click.option("--full", is_flag=True, help="Train the models of all four metrics, every phase.")
@click.option("--peer", is_flag=True, help="pytorch-forecasting in turn too (extra `peers`).")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="Of steps.")
@click.option("--seconds", type=click.FloatRange(0), default=6.0, show_default=True)
@click.option(
    "--batches", default="32,64", callback=parse_sizes, show_default=True,
    help="Sizes of phase 3's steps.",
)  # fmt: skip
@click.option("--set", "pairs", multiple=True, help="key=value for every phase (JSON value).")
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write the record.")
def speed(
    device: str, hours: int, servers: int, epochs: int, full: bool, peer: bool, rounds: int,
    seconds: float, batches: tuple[int, ...], pairs: Sequence[str], record: Path | None,
) -> None:  # fmt: skip
    """Train in four ways and judge the documented claim by what was measured."""
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
    changed = dict(parse(pair) for pair in pairs)
    if peer:
        refuse_for_peer(device, changed)
    settings = {"device": device, **changed}
    check(settings)
    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder) / "documented", Path(folder) / "steps"
        for path, length in ((short, hours), (long, max(STEP_HOURS, hours))):
            write_fleet(fleet_of(servers, length), path)
        trained = train_phases(short, {**settings, "epochs": epochs}, full)
        steps = time_steps(long, settings, batches, rounds, seconds, peer)
    content = {
        "on": measured_on(), "device": device, "hours": hours, "servers": servers,
        "epochs": epochs, "full": full, "settings": settings,
        "phases": merge(trained, steps), "steps": steps, "claims": judge(trained, steps),
    }  # fmt: skip
    click.echo(as_text(content))
    if record is not None:
        write_atomically(record, (json.dumps(content, indent=1) + "\n").encode())


def parse(pair: str) -> tuple[str, Any]:
    """Read key=value, the value as JSON or else as text."""
    key, sign, value = pair.partition("=")
    if not sign:
        raise click.BadParameter(f"{pair!r}; expected key=value", param_hint="--set")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def refuse_for_peer(device: str, changed: dict[str, Any]) -> None:
    """Refuse what would compare a peer with something else."""
    if device != "cpu" or changed:
        raise click.UsageError("--peer trains on the CPU, at the default sizes: no --set, no cuda")


def check(settings: dict[str, Any]) -> None:
    """Refuse, before any work, what no phase can be trained with."""
    for key in settings.keys() & (OWNED - {"device"}):
        raise click.BadParameter(f"{key} belongs to the phases", param_hint="--set")
    if settings["device"] == "cuda" and not torch.cuda.is_available():
        raise click.BadParameter("no CUDA device here", param_hint="--device")
    try:
        for name in PHASES:
            configured(Task("steps", name, "", settings=settings))
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--set") from error


def fleet_of(servers: int, hours: int) -> FleetSpec:
    """Return a fleet of so many servers, in the built-in one's proportions of profiles."""
    cycle = [name for name, count in PROFILES.items() for _ in range(count)]
    chosen = Counter(cycle[number % len(cycle)] for number in range(servers))
    counts: dict[str, Any] = {f"num_{name}": chosen[name] for name in PROFILES}
    return FleetSpec(hours=hours, **counts)


def measure(
    module: str, task: dict[str, Any], python: str = sys.executable, threads: int | None = None
) -> Row:
    """Run one measurement in a process of its own; `threads`: as many as here, if None."""
    command = [python, "-W", "ignore", "-m", f"benchmarks.{module}", json.dumps(task)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        click.echo(done.stderr, err=True)
        missing = module.startswith("peer") and "ModuleNotFoundError" in done.stderr
        hint = "; install the extra `peers`" if missing else ", see above"
        raise click.ClickException(f"benchmarks.{module} {task} failed{hint}")
    row: Row = json.loads(done.stdout.strip().splitlines()[-1])
    return row


def train_phases(data: Path, settings: dict[str, Any], full: bool) -> dict[str, Row]:
    """Train every phase's models, or the first of them; minutes are for all of them."""
    rows = {}
    for name, phase in PHASES.items():
        metrics = METRICS[: phase.models if full else 1]
        runs = []
        for metric in metrics:
            with ProgressLine(f"{name}: training, {phase.models} model(s), {metric} first"):
                task = {"measure": "training", "phase": name, "data": str(data),
                        "metric": metric, "settings": settings}  # fmt: skip
                runs.append(measure("phases", task))
        total = sum(run["seconds"] for run in runs) * phase.models / len(runs)
        rows[name] = {
            "minutes": total / 60,
            "trained_models": len(runs),
            "models": phase.models,
            "scaled": len(runs) < phase.models,
            "loss": runs[0]["loss_by_metric"][METRICS[0]],
            "kept_epoch": runs[0]["best_epoch"],
            "windows_per_epoch": runs[0]["windows"] // runs[0]["epochs"],
        }
    return rows


def time_steps(
    data: Path,
    settings: dict[str, Any],
    sizes: tuple[int, ...],
    rounds: int,
    seconds: float,
    peer: bool,
) -> dict[str, Row]:
    """Time steady-state steps of every way in turn; medians over the rounds."""
    whole = {**settings, "min_context_length": settings.get("context_length", 288)}
    ways: dict[str, Callable[[], Row]] = {}

    task = {"measure": "steps", "data": str(data), "seconds": seconds}
    for name in list(PHASES)[:-1]:
        ways[name] = partial(measure, "phases", {**task, "phase": name, "settings": whole})
    for size in sizes:
        changed = {**task, "phase": LAST, "settings": {**whole, "batch_size": size}}
        ways[f"{LAST}, batch {size}"] = partial(measure, "phases", changed)
    for targets in (1, len(METRICS)) if peer else ():
        asked = {"data": str(data), "targets": targets, "seconds": seconds}
        ways[f"pytorch-forecasting, {targets} target(s)"] = partial(measure, "peers", asked)
    results: dict[str, list[Row]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            with ProgressLine(f"round {number + 1} of {rounds}: steps of {name}"):
                results[name].append(way())
    return {name: in_the_middle(rows, targets_of(name)) for name, rows in results.items()}


def targets_of(name: str) -> int:
    """Return how many metrics one model of a way forecasts."""
    if name in PHASES:
        return len(METRICS) // PHASES[name].models
    return 1 if "1 target" in name else len(METRICS)


def in_the_middle(rows: list[Row], targets: int) -> Row:
    """Return medians over rounds."""
    each = [row["windows_per_second"] for row in rows]
    return {
        "windows_per_second": median(each),
        "windows_per_second_each": each,
        "per_metric": targets * median(each),
        "step_ms": median(row["step_ms"] for row in rows),
        "peak_bytes": median(row["peak_bytes"] for row in rows)
        if "peak_bytes" in rows[0]
        else None,
        "parameters": rows[0]["parameters"],
    }


def merge(trained: dict[str, Row], steps: dict[str, Row]) -> dict[str, Row]:
    """Put documented and measured side by side, phase by phase."""
    rows = {}
    for name, phase in PHASES.items():
        stepped = steps[name] if name in steps else steps_of_last(steps)
        rows[name] = {
            "what": phase.what,
            "documented_minutes": phase.documented_minutes,
            "documented_gigabytes": phase.documented_gigabytes,
            "documented_loss": phase.documented_loss,
            **trained[name],
            "peak_bytes": stepped["peak_bytes"],
        }
    return rows


def steps_of_last(steps: dict[str, Row]) -> Row:
    """Return phase 3's steps at its own batch size, or else at the largest measured."""
    own = f"{LAST}, batch {PHASES[LAST].settings['batch_size']}"
    there = [name for name in steps if name.startswith(LAST)]
    return steps[own if own in there else there[-1]]


def judge(trained: dict[str, Row], steps: dict[str, Row]) -> list[Row]:
    """Compare the last phase with the baseline, claim by claim.

    That a loss is better is no merit of a training that keeps what it started from.
    """
    first, last = trained[FIRST], trained[LAST]
    memory = steps_of_last(steps)["peak_bytes"] / steps[FIRST]["peak_bytes"]
    measured = (
        first["minutes"] / last["minutes"],
        100 * (1 - memory),
        100 * (1 - last["loss"] / first["loss"]),
    )
    trained_at_all = (True, True, last["kept_epoch"] > 0)
    return [
        {"claim": f"{claimed:g} {what}", "measured": value, "holds": value >= claimed and trained,
         "trained": trained}
        for (what, claimed), value, trained in zip(
            CLAIMS.items(), measured, trained_at_all, strict=True
        )
    ]  # fmt: skip


def verdict(claim: Row) -> str:
    """Say what became of a claim."""
    held = "holds" if claim["holds"] else "does not hold"
    untrained = "" if claim["trained"] else ", but no epoch was better than before training"
    return f"{claim['claim']}: {held}, measured {claim['measured']:.1f}{untrained}"


def as_text(content: Row) -> str:
    """Lay out phases, steps and verdicts."""
    lines = [
        f"{content['epochs']} epochs, {content['hours']} h of {content['servers']} servers, on "
        f"{content['device']}; documented | measured",
        f"{'phase':<10}{'minutes':>18}{'speed-up':>16}{'peak memory MB':>18}"
        f"{'loss of ' + METRICS[0]:>26}{'of epoch':>10}",
    ]
    base = content["phases"][FIRST]
    for name, row in content["phases"].items():
        minutes = f"{row['minutes']:.2f}{'*' if row['scaled'] else ' '}"
        faster = base["documented_minutes"] / row["documented_minutes"]
        lines.append(
            f"{name:<10}{row['documented_minutes']:>8.0f} |{minutes:>8}"
            f"{faster:>8.1f} |{base['minutes'] / row['minutes']:>6.1f}"
            f"{1e3 * row['documented_gigabytes']:>9.0f} |{row['peak_bytes'] / 1e6:>7.0f}"
            f"{row['documented_loss']:>16.4f} |{row['loss']:>8.4f}{row['kept_epoch']:>10}"
        )
    if any(row["scaled"] for row in content["phases"].values()):
        lines.append("* scaled: one of four models was trained, its time times four")
    lines += ["", f"{'steps at full context':<36}{'windows/s':>10}{'x metrics':>10}{'ms':>8}"]
    for name, row in content["steps"].items():
        lines.append(
            f"{name:<36}{row['windows_per_second']:>10.0f}{row['per_metric']:>10.0f}"
            f"{row['step_ms']:>8.1f}"
        )
    lines.append("")
    lines += [verdict(claim) for claim in content["claims"]]
    lines.append("one seed; a day of data has 20 validation windows, so the loss is an indication")
    lines.append("the loss is of the epoch that was kept; 0: before training")
    return "\n".join(lines)


if __name__ == "__main__":
    speed()
