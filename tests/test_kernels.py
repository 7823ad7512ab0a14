"""The kernel benchmark times every block, and counts what its floors rest on as torch does."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import blocks, kernels
from benchmarks.blocks import Block, all_blocks
from benchmarks.kernels import BACKWARD, MachineRates, add_up, as_text
from tests.builders import TINY
from tft.fast_path import use_fast_path
from tft.model import TFT

ONE_PATH = {"LSTM encoder", "LSTM decoder", "quantile head, loss"}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "CONTEXT", 12)
    monkeypatch.setattr(blocks, "HORIZON", 4)
    monkeypatch.setattr(kernels, "CONFIG", TINY)
    monkeypatch.setattr(kernels, "TRIES", 2)
    monkeypatch.setattr(kernels, "PRODUCT_SIZE", 50)
    monkeypatch.setattr(kernels, "COPIED_FLOATS", 10_000)


@pytest.mark.usefixtures("tiny")
def test_a_short_run_times_every_block(tmp_path: Path) -> None:
    record = tmp_path / "results" / "kernels.json"
    arguments = ["--batch", "2", "--repeats", "2", "--json", str(record)]
    result = CliRunner().invoke(kernels.kernels, arguments)
    assert result.exit_code == 0, result.output

    content = json.loads(record.read_text())
    assert content["on"]["commit"] and (content["batch"], content["rounds"]) == (2, 2)
    assert content["copy_gb_per_second"] > 0 and content["product_gflop_per_second"] > 0
    blocks, total, step = content["blocks"], content["total_of_blocks"], content["whole_step"]
    assert len(blocks) == 10
    for row in [*blocks, step]:
        assert row["operations"] > 0 and row["bytes"] > 0
        for kind in ("forward", "forward_backward"):
            assert row[f"{kind}_floor_ms"] > 0 and row[f"{kind}_ms"] > 0
            assert row[f"{kind}_in_floors"] == row[f"{kind}_ms"] / row[f"{kind}_floor_ms"]
            assert (row[f"readable_{kind}_ms"] is None) == (row["block"] in ONE_PATH)
    assert total["forward_ms"] == pytest.approx(sum(row["forward_ms"] for row in blocks))
    assert step["operations"] == total["operations"]

    lines = result.stdout.splitlines()
    table = lines[: lines.index("")]
    assert len({len(line) for line in table}) == 1, "columns are aligned"
    assert len(table) == 3 + 10 + 1 + 2


# Where a variable has many channels the gradient of the inputs, which nobody needs, is a good part.
MANY_CHANNELS = ("past variable selection", "future variable selection", "whole network")


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # said when oneDNN is switched off
def test_operations_are_those_torch_counts() -> None:
    """The readable path of the default network, with attention and LSTM taken apart.

    Selection may differ by 4 %: torch counts folding the embeddings but not the mixture.
    """
    with torch.backends.mkldnn.flags(enabled=False):
        for block in all_blocks(TFT(kernels.CONFIG), batch=8):
            for part in block.parts:
                use_fast_path(part, fast=False)
            forward = counted(block, backward=False)
            tolerance = 0.04 if "selection" in block.name or "whole" in block.name else 0.0
            assert block.operations == pytest.approx(forward, rel=tolerance, abs=0), block.name
            least = 0.7 if any(name in block.name for name in MANY_CHANNELS) else 0.9
            both = counted(block, backward=True)
            assert least * BACKWARD * forward < both <= BACKWARD * forward, block.name


def counted(block: Block, backward: bool) -> int:
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        outputs = block.run()
        if backward:
            torch.autograd.backward(outputs, [torch.ones_like(output) for output in outputs])
    return int(counter.get_total_flops())


@pytest.mark.usefixtures("tiny")
def test_every_gradient_of_training_is_in_some_block() -> None:
    """A block that left a layer out would be timed too fast."""
    network = TFT(kernels.CONFIG)
    *every, step = all_blocks(network, batch=2)
    reached = [parameter for block in every for parameter in block.parameters]
    assert {id(p) for p in reached} == {id(p) for p in network.parameters()}
    assert len(reached) == len(step.parameters)
    for block in every:
        torch.autograd.backward(block.run(), [torch.ones_like(o) for o in block.outputs()])
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_the_floor_is_the_longer_of_arithmetic_and_traffic() -> None:
    rates = MachineRates(copy_gb_per_second=10.0, product_gflop_per_second=100.0)
    assert rates.floor_ms(operations=2e8, bytes_moved=1e7) == pytest.approx(2.0)
    assert rates.floor_ms(operations=2e7, bytes_moved=1e8) == pytest.approx(10.0)


def test_a_block_with_one_path_counts_for_both_in_the_total() -> None:
    row = {"block": "one", "operations": 1, "bytes": 1}
    for kind in ("forward", "forward_backward"):
        row |= {f"{kind}_ms": 2.0, f"readable_{kind}_ms": None, f"{kind}_floor_ms": 1.0}
    other = row | {"readable_forward_ms": 5.0, "readable_forward_backward_ms": 6.0}
    total = add_up([row, other])
    assert (total["forward_ms"], total["readable_forward_ms"]) == (4.0, 7.0)
    assert total["readable_forward_backward_ms"] == 8.0 and total["forward_in_floors"] == 2.0
    assert add_up([row])["readable_forward_ms"] is None


def test_the_table_fits_when_times_are_long() -> None:
    row = {"block": "static selection, contexts", "operations": 9e8, "bytes": 9e7}
    for kind in ("forward", "forward_backward"):
        row |= {f"{kind}_ms": 999.0, f"readable_{kind}_ms": 999.0}
        row |= {f"{kind}_floor_ms": 9.0, f"{kind}_in_floors": 111.0}
    text = as_text([row] * 12, MachineRates(100.0, 1000.0), batch=32, device="cpu")
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    result = CliRunner().invoke(kernels.kernels, ["--device", "cuda"])
    assert result.exit_code == 2 and "no CUDA device here" in result.stderr
