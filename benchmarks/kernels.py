"""Where the time of the network goes, and its floor: `python -m benchmarks.kernels`.

Every block of the default network runs by itself on random inputs of its own shapes: forward
(evaluation, no gradients) and forward + backward (training). A round times all blocks, and in turn
both paths of those that have a hand-derived and a readable one; medians over the rounds, after one
that is not counted. The whole network with its loss runs in the same rounds.

A block's floor is the longer of two times. One is that of its multiply-adds (2 operations each) in
matrix products, counted from the shapes, at the rate of one large fp32 product; elementwise work is
not counted. The other is that of its inputs, outputs and parameters, each moved once, at the
bandwidth of one large copy. Forward + backward is taken for three times the forward.
"""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch import Tensor

from benchmarks.blocks import CONFIG, Block, all_blocks, product
from benchmarks.machine import measured_on
from tft.fast_path import use_fast_path
from tft.model import TFT

PRODUCT_SIZE = 1500  # rows and columns
COPIED_FLOATS = 64 * 1024**2  # 256 MiB, more than most caches hold
TRIES = 10  # of copy and product
BACKWARD = 3  # forward + backward, in forwards: gradients of inputs and of parameters come after
HEADER = (
    ("", "", "", "forward", "", "", "", "forward", "+ backward", "", ""),
    ("", "ops,", "", "as run", "readable", "floor", "in", "as run", "readable", "floor", "in"),
    (f"{'block':<26}", "M", "MB", "ms", "ms", "ms", "floors", "ms", "ms", "ms", "floors"),
)


@dataclass(frozen=True)
class MachineRates:
    """What the machine reaches at its easiest work."""

    copy_gb_per_second: float
    """Read and written."""
    product_gflop_per_second: float

    def floor_ms(self, operations: float, bytes_moved: float) -> float:
        """Return the least time, in ms, for so many operations and bytes."""
        moves = bytes_moved / self.copy_gb_per_second
        arithmetic = operations / self.product_gflop_per_second
        return max(arithmetic, moves) / 1e6


@click.command()
@click.option("--batch", type=click.IntRange(1), default=32, show_default=True, help="Windows.")
@click.option("--repeats", type=click.IntRange(1), default=15, show_default=True, help="Rounds.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--json", "record", type=click.Path(path_type=Path), help="Write the record.")
def kernels(batch: int, repeats: int, device: str, record: Path | None) -> None:
    """Time every block of the network beside its floor."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.BadParameter("no CUDA device here", param_hint="--device")
    if record is not None:
        record.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
    torch.manual_seed(0)
    where = torch.device(device)
    rates = machine_rates(where)
    blocks = all_blocks(TFT(CONFIG).to(where), batch)
    *rows, step = measure(blocks, where, repeats, rates)
    total = add_up(rows)
    click.echo(as_text([*rows, total, step], rates, batch, device))
    if record is not None:
        content = {
            "on": measured_on(),
            "device": device,
            "batch": batch,
            "rounds": repeats,
            **asdict(rates),
            "blocks": rows,
            "total_of_blocks": total,
            "whole_step": step,
        }
        record.write_text(json.dumps(content, indent=1) + "\n")


def machine_rates(device: torch.device) -> MachineRates:
    """Measure a large copy and a large fp32 product: the fastest of several, as it is a floor."""
    source = torch.ones(COPIED_FLOATS, device=device)
    copy = torch.empty_like(source)
    square = torch.randn(PRODUCT_SIZE, PRODUCT_SIZE, device=device)
    result = torch.empty_like(square)
    copied = min(seconds(lambda: copy.copy_(source), device) for _ in range(TRIES))
    multiplied = min(
        seconds(lambda: torch.mm(square, square, out=result), device) for _ in range(TRIES)
    )
    operations = product(PRODUCT_SIZE, PRODUCT_SIZE, PRODUCT_SIZE)
    return MachineRates(2 * source.nbytes / copied / 1e9, operations / multiplied / 1e9)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Time one call, from an idle device to an idle device."""
    wait = torch.cuda.synchronize if device.type == "cuda" else torch.cpu.synchronize
    wait()
    started = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - started


def time_block(block: Block, gradients: list[Tensor], device: torch.device) -> tuple[float, float]:
    """Time a forward, and a forward and backward given the outputs' gradients, in ms."""
    for part in block.parts:
        part.eval()
    forward = seconds(block.outputs, device)
    for part in block.parts:
        part.train()
    for tensor in (*block.inputs, *block.parameters):
        tensor.grad = None
    both = seconds(lambda: torch.autograd.backward(block.run(), gradients), device)
    return 1e3 * forward, 1e3 * both


def measure(
    blocks: list[Block], device: torch.device, rounds: int, rates: MachineRates
) -> list[dict[str, Any]]:
    """Time every block in every round, each path in turn; a row per block."""
    times = {block.name: defaultdict[str, list[float]](list) for block in blocks}
    gradients = {b.name: [torch.ones_like(output) for output in b.outputs()] for b in blocks}
    with click.progressbar(range(rounds + 1), label="rounds", file=sys.stderr) as bar:
        for number in bar:
            for block in blocks:
                for prefix in block.prefixes(device):
                    for part in block.parts:
                        use_fast_path(part, fast=prefix == "")
                    forward, both = time_block(block, gradients[block.name], device)
                    if number > 0:  # the first warms up
                        times[block.name][f"{prefix}forward_ms"].append(forward)
                        times[block.name][f"{prefix}forward_backward_ms"].append(both)
    return [row_of(block, times[block.name], rates) for block in blocks]


def row_of(block: Block, times: dict[str, list[float]], rates: MachineRates) -> dict[str, Any]:
    """Return a block's counts, and its medians, its floors in ms and how many floors it takes."""
    row: dict[str, Any] = {"block": block.name}
    row |= {"operations": block.operations, "bytes": block.bytes_moved()}
    for kind, forwards in (("forward", 1), ("forward_backward", BACKWARD)):
        for name in (f"{kind}_ms", f"readable_{kind}_ms"):
            row[name] = median(times[name]) if name in times else None
        floor = rates.floor_ms(forwards * row["operations"], forwards * row["bytes"])
        row[f"{kind}_floor_ms"] = floor
        row[f"{kind}_in_floors"] = row[f"{kind}_ms"] / floor
    return row


def add_up(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Add the blocks up; where a block has one path, that one counts for both."""
    total: dict[str, Any] = {"block": "total of the blocks"}
    for name in ("operations", "bytes"):
        total[name] = sum(row[name] for row in rows)
    for kind in ("forward", "forward_backward"):
        name, readable, floor = f"{kind}_ms", f"readable_{kind}_ms", f"{kind}_floor_ms"
        either = [row[name] if row[readable] is None else row[readable] for row in rows]
        total[name] = sum(row[name] for row in rows)
        total[readable] = sum(either) if any(row[readable] for row in rows) else None
        total[floor] = sum(row[floor] for row in rows)
        total[f"{kind}_in_floors"] = total[name] / total[floor]
    return total


def as_text(rows: Sequence[dict[str, Any]], rates: MachineRates, batch: int, device: str) -> str:
    """Lay out the rows as a table, and what the floors rest on."""
    table = [*HEADER, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ["  ".join(map(str.rjust, line, widths)) for line in table]
    how = f"{device}, batch {batch}, fp32. As run: hand-derived layers where readable is given too."
    speeds = f"{rates.copy_gb_per_second:.1f} GB/s, {rates.product_gflop_per_second:,.0f} GFLOP/s"
    floors = f"Floors: {speeds}; forward + backward is {BACKWARD} forwards."
    return "\n".join([*lines[:-2], "-" * len(lines[0]), *lines[-2:], "", how, floors])


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """Write a row's numbers, as in `HEADER`."""
    texts = [f"{row['block']:<26}", f"{row['operations'] / 1e6:,.1f}", f"{row['bytes'] / 1e6:.1f}"]
    for kind in ("forward", "forward_backward"):
        readable = row[f"readable_{kind}_ms"]
        texts.append(f"{row[f'{kind}_ms']:.2f}")
        texts.append("" if readable is None else f"{readable:.2f}")
        texts += [f"{row[f'{kind}_floor_ms']:.3f}", f"{row[f'{kind}_in_floors']:.1f}"]
    return tuple(texts)


if __name__ == "__main__":
    kernels()
