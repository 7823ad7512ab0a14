"""Write the README's tables from the recorded results: `python -m benchmarks.readme`."""

import json
from statistics import mean, median
from typing import Any

from benchmarks.accuracy_text import LIGHTGBM, as_markdown
from benchmarks.machine import ROOT
from benchmarks.record import RESULTS
from benchmarks.speed import verdict
from tft.files import write_atomically

README = ROOT / "README.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
FORECASTERS = {
    "tft": "this",
    "window_quantiles": "last 24 h's own quantiles, held flat",
    "seasonal_naive": "yesterday's same hours",
    "last_value": "last value",
}


def measured_section() -> str:
    """Return the section between the README's marks."""
    parts = [
        "Weighted quantile loss of quantiles 0.1, 0.5 and 0.9; lower is better.\n",
        _accuracy("builtin", "The built-in fleet, `make demo`"),
        *_accuracy_peers(),
        _speed(),
        _inference(),
        _scale(),
        _serve(),
        "Every figure is from `benchmarks/results/*.json`, written by `python -m "
        "benchmarks.record`, `accuracy`, `speed`, `inference`, `kernels`, `scale`, `serve`, `soak` "
        "and `export`, of the commit it names (what has changed since: `benchmarks/NOTES.md`); "
        "`python -m benchmarks.readme` writes this section.\n",
    ]
    return "\n".join(parts)


def updated(text: str) -> str:
    """Return the README with its measured section written anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{measured_section()}{END}{after}"


def _of(machine: dict[str, Any]) -> str:
    """Name what was measured on, and of which code: not every record is of the newest."""
    return f"{machine['processor']}, commit {machine['commit'][:7]}"


def _accuracy(name: str, title: str) -> str:
    """Return one fleet's table."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    training, evaluation, machine = result["training"], result["evaluation"], result["on"]
    rows = {f["name"]: f["rows"] for f in evaluation["forecasters"]}
    metrics = [row["metric"] for row in rows["tft"]]
    lines = [
        f"**{title}**: {training['num_servers']} servers, {training['data_hours'] / 24:.0f} days, "
        f"{training['epochs']} epochs of {training['windows_per_epoch']:,} sampled windows, "
        f"{training['precision']}, {training['training_time_hours'] * 60:.1f} minutes on "
        f"{machine['cores']} cores ({_of(machine)}), peak memory "
        f"{training['peak_memory_mb'] / 1000:.2f} GB, {training['model_parameters']:,} parameters; "
        f"{evaluation['windows']:,} windows after the training period, which also chose the best "
        "epoch.\n",
        "| forecaster | " + " | ".join(metrics) + " |",
        "|---" * (len(metrics) + 1) + "|",
    ]
    for key, label in FORECASTERS.items():
        lines.append(f"| {label} | " + " | ".join(f"{row['wql']:.3f}" for row in rows[key]) + " |")
    covered = " | ".join(f"{100 * row['coverage']:.0f} %" for row in rows["tft"])
    lines.append(f"| ticks inside this one's 80 % interval | {covered} |")
    return "\n".join(lines) + "\n"


def _accuracy_peers() -> list[str]:
    """Return the tables beside peers, if they were recorded."""
    path = RESULTS / "accuracy.json"
    if not path.exists():
        return []
    result: dict[str, Any] = json.loads(path.read_text())
    machine = result["on"]
    learnt = [r for r in result["results"] if r["forecaster"] == LIGHTGBM]
    lightgbm = mean(r["facts"]["train_seconds"] for r in learnt) / 60 if learnt else 0.0
    quicker = f" (LightGBM {lightgbm:.1f})" if learnt else ""
    jobs, cores = result["jobs"], result["threads_each"]
    beside = f" each, {jobs} trainings side by side"
    title = (
        f"**Beside peers, `python -m benchmarks.accuracy --peers`** on `{result['data']}`: trained "
        f"on two thirds of the servers before {result['cutoff'][:10]}, judged from then on; "
        f"{result['minutes']:g} minutes of training{quicker} on {cores} core{'s' * (cores > 1)}"
        f"{beside * (jobs > 1)} ({_of(machine)}); mean ± standard deviation of "
        f"{result['seeds']} seeds. Weighted quantile loss, and ticks inside the 80 % interval. "
        "This one reads 28 days of a server's history, the peers the last day.\n"
    )
    return [title, as_markdown(result)]


def _scale() -> str:
    """Return the table of growing fleets."""
    result: dict[str, Any] = json.loads((RESULTS / "scale.json").read_text())
    machine = result["on"]
    lines = [
        f"**Fleets of {result['days']} days in Parquet files, `python -m benchmarks.scale`**, on "
        f"{machine['cores']} cores ({_of(machine)}):\n",
        "| servers | series | read in | peak memory while reading | 10,000 training windows in |",
        "|---|---|---|---|---|",
    ]
    for row in result["fleets"]:
        lines.append(
            f"| {row['servers']:,} | {row['series_bytes'] / 1e6:,.0f} MB | "
            f"{row['load_seconds']:.1f} s | {row['peak_bytes'] / 1e6:,.0f} MB "
            f"({row['peak_bytes'] / row['series_bytes']:.2f} x the series) | "
            f"{row['gather_seconds']:.2f} s |"
        )
    return "\n".join(lines) + "\n"


def _serve() -> str:
    """Return what the service was measured to hold, and exported files beside the bundle."""
    load, soak, export = (
        json.loads((RESULTS / f"{name}.json").read_text()) for name in ("serve", "soak", "export")
    )
    machine, every, tick = load["on"], load["load"]["requests"][-1], load["load"]["tick"]
    ticks = ", ".join(
        f"{row['servers']:,} servers {row['worst_seconds']:.1f} s "
        f"({row['peak_bytes'] / 1e9:.1f} GB)"
        for row in load["ticks"]
    )
    held = [sample["bytes"] / 1e6 for sample in soak["memory"]]
    middle, last = (median(held[n * len(held) // 3 : (n + 1) * len(held) // 3]) for n in (1, 2))
    forms = list(export["files"])
    lines = [
        f"**Serving, `python -m benchmarks.serve`**, on {machine['cores']} cores "
        f"({_of(machine)}): {load['rate']} requests/s for {load['load']['seconds']} s, of "
        f"{load['servers']} servers that are forecast meanwhile: median {1e3 * every['p50']:.0f} "
        f"ms, p99 {1e3 * every['p99']:.0f} ms; a tick, from its first row to its forecast "
        f"being read, median {tick['p50']:.2f} s, at worst {tick['worst']:.2f} s. Ticks without "
        f"requests, at worst (peak memory): {ticks}. `python -m benchmarks.soak` "
        f"({_of(soak['on'])}): {soak['minutes']:g} minutes "
        f"in fast motion, {soak['ticks']:,} ticks, {soak['requests']:,} requests, "
        f"{len(soak['failed'])} failed; memory in the median of its middle third "
        f"{middle:,.0f} MB, of its last {last:,.0f} MB.\n",
        f"**Exported, `python -m benchmarks.export`**, on {export['on']['cores']} cores "
        f"({_of(export['on'])}):\n",
        "| windows | run's bundle | " + " | ".join(forms) + " |",
        "|---|---|" + "---|" * len(forms),
    ]
    for windows in dict.fromkeys(row["windows"] for row in export["forecasts"]):
        rows = {r["form"]: r for r in export["forecasts"] if r["windows"] == windows}
        told = (f"{rows[form]['median_seconds']:.3f} s" for form in ("bundle", *forms))
        lines.append(f"| {windows} | " + " | ".join(told) + " |")
    return "\n".join(lines) + "\n"


def _speed() -> str:
    """Return the tables of the documented claim and of training steps."""
    result: dict[str, Any] = json.loads((RESULTS / "speed.json").read_text())
    machine, base = result["on"], result["phases"]["baseline"]
    lines = [
        f'**The claim "6x faster, 44 % less memory, 20 % better", `python -m benchmarks.speed '
        f"--peer`**: documented of the reference stack | measured here, {result['epochs']} epochs, "
        f"{result['hours']} h of {result['servers']} servers, {machine['cores']} cores "
        f"({_of(machine)}).\n",
        "| phase | minutes | speed-up | peak memory of steps | loss of cpu_percent |",
        "|---|---|---|---|---|",
    ]
    for name, row in result["phases"].items():
        times = base["documented_minutes"] / row["documented_minutes"]
        lines.append(
            f"| {name} | {row['documented_minutes']} \\| {row['minutes']:.2f}"
            f"{' (scaled)' if row['scaled'] else ''} | {times:.1f} \\| "
            f"{base['minutes'] / row['minutes']:.1f} | {row['documented_gigabytes']:.1f} GB \\| "
            f"{row['peak_bytes'] / 1e9:.2f} GB | {row['documented_loss']:.4f} \\| "
            f"{row['loss']:.4f} (epoch {row['kept_epoch']}) |"
        )
    verdicts = [verdict(claim) for claim in result["claims"]]
    lines += [
        "",
        f"{'; '.join(verdicts)}. Scaled: the time of one of four models, times four. One seed; a "
        "day has 20 validation windows, so its loss is an indication, and the documented one is of "
        "unknown unit; it is of the epoch that is kept, 0 before training. Memory is that above "
        "libraries, data and weights.\n",
        "| training steps, 288 + 96 ticks | windows/s | forecasts of one metric a second |",
        "|---|---|---|",
    ]
    for name, row in result["steps"].items():
        lines.append(f"| {name} | {row['windows_per_second']:.0f} | {row['per_metric']:.0f} |")
    there: dict[str, Any] = json.loads((RESULTS / "speed_cuda.json").read_text())
    verdicts = [verdict(claim) for claim in there["claims"]]
    last = list(there["steps"])[-1]
    lines += [
        "",
        f"With `--device cuda` on one {there['on']['gpu']} ({_of(there['on'])}): "
        f"{'; '.join(verdicts)}. {last.capitalize()}: "
        f"{there['steps'][last]['windows_per_second']:,.0f} windows/s.",
    ]
    return "\n".join(lines) + "\n"


def _inference() -> str:
    """Return the table of forecasting."""
    result: dict[str, Any] = json.loads((RESULTS / "inference.json").read_text())
    machine = result["on"]
    lines = [
        f"**Forecasting, `python -m benchmarks.inference`**, on {machine['cores']} cores "
        f"({_of(machine)}):\n",
        "| servers | layers | seconds | windows/s |",
        "|---|---|---|---|",
    ]
    for row in result["forecasts"]:
        lines.append(
            f"| {row['servers']:,} | {row['layers']} | {row['median_seconds']:.3f} | "
            f"{row['windows_per_second']:,.0f} |"
        )
    lines += [
        "",
        f"{result['file_to_file']['servers']} servers from file to file "
        f"{result['file_to_file']['median_seconds']:.2f} s; `import tft.model` after torch "
        f"{result['fresh_processes']['tft_model_after_torch_seconds']:.3f} s; `cli.py --help` "
        f"{result['fresh_processes']['help_seconds']:.2f} s.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_atomically(README, updated(README.read_text(encoding="utf-8")).encode())
    print(f"wrote {README.name}")
