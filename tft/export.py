"""The whole forecaster as one file for programs that have none of this code.

Raw windows in, raw quantiles [B, H, M, Q] out, any number of windows at a time. The inputs are
those of a `WindowBatch` but for its future, by these names and in this order (`INPUTS`); the file
tells their shapes and types, and the schema: which metrics, in which order (`describe`).

torch.export (.pt2) needs torch alone; open only files you trust, as PyTorch advises:

    about = {"forecaster.json": ""}
    forecast = torch.export.load("model.pt2", extra_files=about).module()
    quantiles = forecast(past, known, static_reals, static_codes, history_length, earlier)
    schema = json.loads(about["forecaster.json"])["schema"]

ONNX (.onnx) needs onnxruntime alone; inputs are NumPy arrays:

    session = onnxruntime.InferenceSession("model.onnx")
    (quantiles,) = session.run(["quantiles"], {"past": past, ...})
    about = json.loads(session.get_modelmeta().custom_metadata_map["forecaster.json"])

Both are made for a CPU.

B batch, T context, H horizon, L = T + H, M metrics, D hidden.
"""

import copy
import hashlib
import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from tft.batch import WindowBatch
from tft.bundle import packed_weights
from tft.files import write_atomically
from tft.forecaster import Forecaster
from tft.model import TFT, TFTInputs

ENDINGS = {"torch": ".pt2", "onnx": ".onnx"}
INPUTS = ("past", "known", "static_reals", "static_codes", "history_length", "earlier")
DESCRIPTION = "forecaster.json"  # under this name in either file
TOLERANCE = 1e-4  # of a window's spread: how far a file may be from the forecaster it was made of
SHUT = 1000.0  # a gate's sum of inputs is within some tens; its sigmoid so far out is 0 or 1

Forecast = Callable[[WindowBatch], Tensor]  # raw quantiles [B, H, M, Q]


def export_forecaster(forecaster: Forecaster, file_format: str, path: Path) -> float:
    """Write a forecaster as one file, which appears whole or not at all.

    Before it appears it is loaded and compared with the forecaster on random windows, short and
    with missing values, one and several at a time.

    Args:
        forecaster: in evaluation mode.
        file_format: `torch` or `onnx`.
        path: of the file; what was there is replaced.

    Returns:
        The largest difference found, in spreads of a window.

    Raises:
        ValueError: the format needs a library that is not installed, or the file would forecast
            otherwise than the forecaster.
    """
    if file_format not in ENDINGS:
        raise ValueError(f"format {file_format!r}: expected one of {', '.join(ENDINGS)}")
    if file_format == "onnx":
        _need_onnx()
    program = to_program(forecaster)
    if file_format == "torch":
        blob = _torch_file(program, describe(forecaster))
        exported = load_torch(blob)
    else:
        blob = _onnx_file(program, describe(forecaster))
        exported = load_onnx(blob)
    differences = [
        largest_difference(forecaster, exported, random_windows(forecaster, batch, seed=batch))
        for batch in (1, 6)
    ]
    wrong = [difference for difference in differences if not difference <= TOLERANCE]  # or NaN
    if wrong:
        raise ValueError(
            f"{path}: not written, its forecasts would differ by {wrong[0]:.2g} spreads from the "
            f"forecaster's, expected {TOLERANCE:g} at most; try other versions of torch"
            + (", onnxscript and onnxruntime" if file_format == "onnx" else "")
        )
    write_atomically(path, blob)
    return max(differences)


def describe(forecaster: Forecaster) -> dict[str, Any]:
    """Return what a program that feeds the file must know, as plain JSON values."""
    windows = random_windows(forecaster, 1, seed=0)
    inputs = {
        name: {"shape": ["batch", *tensor.shape[1:]], "dtype": str(tensor.dtype).split(".")[-1]}
        for name, tensor in zip(INPUTS, inputs_of(windows), strict=True)
    }
    schema = forecaster.schema
    output = ["batch", schema.prediction_horizon, len(schema.targets), len(schema.quantiles)]
    return {
        "format": "fleet-tft export",
        "version": 2,
        "weights_sha256": hashlib.sha256(packed_weights(forecaster)).hexdigest(),
        "schema": schema.to_dict(),
        "quantiles": list(schema.quantiles),
        "inputs": inputs,
        "outputs": {"quantiles": {"shape": output, "dtype": "float32"}},
    }


def inputs_of(windows: WindowBatch) -> tuple[Tensor, ...]:
    """Return what a file takes, in the order of `INPUTS`: everything but the future."""
    return tuple(getattr(windows, name) for name in INPUTS)


def load_torch(file: Path | bytes) -> Forecast:
    """Return the forecasts of a .pt2 file, or of its bytes."""
    source = io.BytesIO(file) if isinstance(file, bytes) else file
    with _quiet():
        forecast = torch.export.load(source).module()

    def run(windows: WindowBatch) -> Tensor:
        quantiles: Tensor = forecast(*inputs_of(windows))
        return quantiles

    return run


def load_onnx(file: Path | bytes, threads: int = 0) -> Forecast:
    """Return the forecasts of an .onnx file, or of its bytes, on the CPU.

    Args:
        file: its path or bytes.
        threads: of onnxruntime; 0: as many as it sees fit.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        file if isinstance(file, bytes) else os.fspath(file),
        options,
        providers=["CPUExecutionProvider"],
    )

    def run(windows: WindowBatch) -> Tensor:
        arrays = {name: getattr(windows, name).numpy() for name in INPUTS}
        return torch.from_numpy(session.run(["quantiles"], arrays)[0])

    return run


def largest_difference(forecaster: Forecaster, exported: Forecast, windows: WindowBatch) -> float:
    """Compare forecasts of raw windows; return the largest difference, in a window's spreads."""
    expected = forecaster.forecast(windows)
    spread = forecaster.encode(windows).scale.spread[:, None, : expected.shape[2], None]
    return float(((exported(windows) - expected).abs() / spread).max())


def random_windows(forecaster: Forecaster, batch: int, seed: int) -> WindowBatch:
    """Return raw windows like those trained on: the first whole, others short, with gaps."""
    schema, normaliser = forecaster.schema, forecaster.normaliser
    draw = torch.Generator().manual_seed(seed)
    T, H, M = schema.context_length, schema.prediction_horizon, len(schema.targets)
    level, spread = normaliser.typical_level.cpu(), normaliser.typical_spread.cpu()
    past = torch.randn(batch, T, len(schema.metrics), generator=draw) * spread + level
    earlier = torch.randn(batch, schema.earlier_ticks, M, generator=draw) * spread[:M] + level[:M]
    length = torch.randint(1, T + 1, (batch,), generator=draw)
    length[0] = T
    gaps = torch.rand(past.shape, generator=draw) < 0.1
    begun = torch.arange(T) >= (T - length).unsqueeze(1)
    turns = torch.rand(batch, T + H, len(schema.known), generator=draw) * 2 * torch.pi
    reals = torch.randn(batch, len(schema.static_reals), generator=draw)
    sizes = (schema.server_buckets, len(schema.profiles) + 1)
    codes = [torch.randint(size, (batch,), generator=draw) for size in sizes]
    return WindowBatch(
        past=past.masked_fill(gaps | ~begun.unsqueeze(-1), torch.nan),
        known=torch.stack([turns.cos(), turns.sin()], dim=-1),
        static_reals=reals.sinh(),
        static_codes=torch.stack(codes, dim=1),
        history_length=length,
        future=torch.full((batch, H, M), torch.nan),
        earlier=earlier.masked_fill(torch.rand(earlier.shape, generator=draw) < 0.3, torch.nan),
    )


def to_program(forecaster: Forecaster) -> ExportedProgram:
    """Record a forecaster as one graph for any number of windows, on the CPU."""
    example = inputs_of(random_windows(forecaster, 3, seed=0))
    batch = Dim("batch")
    with _quiet():
        program = torch.export.export(
            RawForecaster(forecaster), example, dynamic_shapes=({0: batch},) * len(INPUTS)
        )
    for part in program.graph_module.modules():
        if isinstance(part, GraphModule):
            for node in part.graph.nodes:
                node.meta.pop("stack_trace", None)  # tells the paths of this machine
    return program


class RawForecaster(nn.Module):
    """A forecaster that takes a window's tensors one by one and makes no choice by their values."""

    def __init__(self, forecaster: Forecaster) -> None:
        super().__init__()
        self.forecaster = copy.deepcopy(forecaster).cpu().eval().requires_grad_(False)
        self.forecaster.network = BranchlessTFT.of(self.forecaster.network)

    def forward(
        self,
        past: Tensor,
        known: Tensor,
        static_reals: Tensor,
        static_codes: Tensor,
        history_length: Tensor,
        earlier: Tensor,
    ) -> Tensor:
        """Return raw quantiles [B, H, M, Q]; see `WindowBatch` for the inputs."""
        unread = earlier[:, -self.forecaster.schema.prediction_horizon :]  # the future's place
        windows = WindowBatch(
            past, known, static_reals, static_codes, history_length, unread, earlier
        )
        inputs, scale = self.forecaster.encode(windows)
        return self.forecaster.to_raw(self.forecaster.network(inputs).quantiles, scale)


class BranchlessTFT(TFT):
    """The same network, equal in its forecasts, with no step that depends on values of its inputs.

    `TFT` cuts a batch to its longest history and packs series of different lengths; a graph that is
    recorded once can do neither. Here every window has T ticks, and the encoder stands still until
    a history begins: a further input, 1 until then, shuts its input and output gates and opens the
    forget gate. So the cell stays c_c and the hidden state 0. What c_h would add to the first tick,
    its product with the recurrent weights, is added as an input of that tick.
    """

    @classmethod
    def of(cls, network: TFT) -> "BranchlessTFT":
        """Return this form of a network, with the same parameters."""
        with torch.device("meta"):  # no memory, and no random number is drawn
            branchless = cls(network.config)
        branchless.load_state_dict(network.state_dict(), assign=True)
        return branchless.train(network.training).requires_grad_(False)

    @staticmethod
    def _crop(inputs: TFTInputs) -> tuple[Tensor, Tensor, Tensor | None]:
        B, T = inputs.past.shape[:2]
        seen, length = inputs.past_seen, inputs.history_length
        if seen is None:
            seen = torch.ones(B, T, dtype=torch.bool, device=inputs.past.device)
        return inputs.past, seen, length

    def _encode(
        self, past: Tensor, state: tuple[Tensor, Tensor], length: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if length is None:
            return super()._encode(past, state, length)
        h_0, c_0 = state
        S, D = past.shape[1:]
        step, begin = torch.arange(S, device=past.device), (S - length).unsqueeze(1)
        first = (step == begin).unsqueeze(-1).to(past.dtype)  # [B, S, 1]
        before = (step < begin).unsqueeze(-1).to(past.dtype)
        x = torch.cat([past, first * h_0.unsqueeze(1), before], dim=-1)  # [B, S, 2 D + 1]
        w_input, w_hidden, *biases = self.encoder.all_weights[0]
        gates = past.new_tensor([-SHUT, SHUT, 0.0, -SHUT])  # input, forget, cell, output
        w_x = torch.cat([w_input, w_hidden, gates.repeat_interleave(D).unsqueeze(1)], dim=1)
        start = (torch.zeros_like(h_0).unsqueeze(0), c_0.unsqueeze(0))
        outputs, h_T, c_T = torch.lstm(
            x, start, [w_x, w_hidden, *biases], True, 1, 0.0, False, False, True
        )
        return outputs, (h_T, c_T)


def _torch_file(program: ExportedProgram, about: dict[str, Any]) -> bytes:
    """Return a program as the bytes of a .pt2 file."""
    buffer = io.BytesIO()
    with _quiet():
        torch.export.save(program, buffer, extra_files={DESCRIPTION: json.dumps(about)})
    return buffer.getvalue()


def _onnx_file(program: ExportedProgram, about: dict[str, Any]) -> bytes:
    """Return a program as the bytes of an .onnx file."""
    with _quiet():
        converted = torch.onnx.export(
            program, dynamo=True, input_names=INPUTS, output_names=("quantiles",), verbose=False,
            custom_translation_table={torch.ops.aten.sort.stable: _stable_sort},
        )  # fmt: skip
    assert converted is not None
    model = converted.model_proto
    for entry in (*model.graph.node, *model.graph.value_info):
        del entry.metadata_props[:]  # they tell the paths of this machine
    model.metadata_props.add(key=DESCRIPTION, value=json.dumps(about))
    blob: bytes = model.SerializeToString()
    return blob


def _stable_sort(values: Any, stable: bool, dim: int = -1, descending: bool = False) -> Any:
    """Say `sort` in ONNX, which PyTorch's exporter cannot: equal values stay as they come."""
    from onnxscript import opset18 as op

    assert stable and dim == -1
    return op.TopK(values, op.Shape(values, start=-1), largest=int(descending), sorted=1)


def _need_onnx() -> None:
    """Refuse at once where the optional libraries are missing."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"the onnx format needs optional libraries ({error}); pip install 'fleet-tft[export]'"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to themselves what exporters say of their own insides; what they make is compared."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
