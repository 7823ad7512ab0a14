"""Where the hand-derived layers run instead of the readable ones, which they equal.

They are written for a CPU, whose caches they spare. A GPU, a compiler and an exporter are given the
readable ones, made of operations they know. `torch.func`, forward-mode derivatives and second
derivatives need `use_fast_path(module, False)`.
"""

import torch
from torch import Tensor, nn


def runs_fast(x: Tensor) -> bool:
    """Tell whether the hand-derived layers are for this tensor."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def use_fast_path(module: nn.Module, fast: bool) -> None:
    """Choose between hand-derived (the default) and readable layers throughout a module."""
    for part in module.modules():
        if hasattr(part, "fast_path"):
            setattr(part, "fast_path", fast)  # noqa: B010
