"""Where to compute, and in what precision."""

from contextlib import AbstractContextManager

import torch

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
    return torch.device(name)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Return the context a forward pass runs in; fp32 changes nothing."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def grad_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Return a scaler that keeps fp16 gradients from vanishing, and does nothing otherwise."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
