"""Mixed precision: autocast for the network, loss scaling for fp16."""

from contextlib import AbstractContextManager

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Return the context a forward pass runs in; fp32 changes nothing."""
    return torch.autocast(device.type, dtype=DTYPES[precision], enabled=precision != "fp32")


def grad_scaler(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """Return a scaler that keeps fp16 gradients from vanishing, and does nothing otherwise."""
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")
