"""Where to compute, and in what precision."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str) -> torch.device:
    """Return the device to compute on.

    Raises:
        ValueError: the name is none, or a GPU is asked for where there is none.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device = {name!r}: expected one of auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device = cuda: PyTorch sees no GPU here; use cpu, or auto")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device(name)


@contextmanager
def deterministic_kernels(wanted: bool) -> Iterator[None]:
    """Let PyTorch use only deterministic kernels while entered, where that is wanted.

    On a GPU this costs speed: attention is written out, and cuBLAS is given a workspace of its own.
    """
    before = torch.are_deterministic_algorithms_enabled()
    if not wanted or before:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA is first used
    torch.use_deterministic_algorithms(True)
    try:
        with sdpa_kernel(SDPBackend.MATH) if torch.cuda.is_available() else nullcontext():
            yield
    finally:
        torch.use_deterministic_algorithms(False)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Return the context a forward pass runs in; fp32 changes nothing."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def grad_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Return a scaler that keeps fp16 gradients from vanishing, and does nothing otherwise."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def gather_weights(module: nn.Module) -> None:
    """Lay each LSTM's weights out in one piece, as cuDNN wants them; copying has scattered them."""
    for part in module.modules():
        if isinstance(part, nn.RNNBase):
            part.flatten_parameters()
