"""Ticks of the context in patches, each of them one step of the encoder.

Most of a Temporal Fusion Transformer's work is done once per step of the context, and neighbouring
ticks tell nearly the same. A patch reads all of its ticks at once, as PatchTST does (Nie, Nguyen,
Sinthong, Kalagnanam, arXiv 2211.14730); patches of one tick are the paper's
encoder. Missing ticks are masked in it; attention sees a patch in which any tick was seen.

B batch, T ticks, P ticks of a patch, S = ceil(T / P) patches, V variables, C channels of a variable
at a tick, H horizon, L = T + H.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Patches(NamedTuple):
    """A context in patches that end with its last tick."""

    past: Tensor  # [B, S, V, P * C], 0 before a history began
    seen: Tensor  # [B, S] bool, any tick of it
    length: Tensor | None  # [B] int64, patches since a history began; None: all S


def in_patches(past: Tensor, seen: Tensor, length: Tensor | None, P: int) -> Patches:
    """Put ticks together, P at a time.

    Args:
        past: [B, T, V, C], anything before a history began.
        seen: [B, T] bool.
        length: [B] int64 ticks since a history began; None: all T.
        P: ticks of a patch.
    """
    B, T, V, C = past.shape
    if length is not None:
        begun = torch.arange(T, device=past.device) >= (T - length.to(past.device)).unsqueeze(1)
        past = torch.where(begun[..., None, None], past, 0.0)
        length = (length + P - 1) // P
    missing = -T % P
    past, seen = F.pad(past, (0, 0, 0, 0, missing, 0)), F.pad(seen, (missing, 0))
    past = past.view(B, -1, P, V, C).transpose(2, 3).flatten(3)
    return Patches(past, seen.view(B, -1, P).any(-1), length)


def weights_of_ticks(weights: Tensor, P: int, T: int) -> Tensor:
    """Give every tick its patch's selection weights: [B, S, V] to [B, T, V].

    Ticks before the oldest patch of all windows have 0; those before a history began have weights
    that mean nothing.

    Args:
        weights: of patches, the last of which ends with the last tick.
        P: ticks of a patch.
        T: ticks of the context.
    """
    weights = weights.repeat_interleave(P, dim=1)
    return F.pad(weights, (0, 0, T - weights.shape[1], 0))  # or cuts the oldest patch


def attention_to_ticks(attention: Tensor, seen: Tensor, P: int, T: int) -> Tensor:
    """Divide what a patch gets evenly among its seen ticks: [B, H, S + H] to [B, H, L].

    Args:
        attention: to patches, and to the horizon.
        seen: [B, n] bool, the newest n of T ticks, which the patches hold.
        P: ticks of a patch.
        T: ticks of the context; those before the n get 0.
    """
    n = seen.shape[1]
    ticks = F.pad(seen, (-n % P, 0)).view(len(seen), 1, -1, P)  # [B, 1, S, P]
    share = ticks / ticks.sum(-1, keepdim=True).clamp(min=1)
    past, ahead = attention.tensor_split([ticks.shape[2]], dim=-1)
    past = (past.unsqueeze(-1) * share).flatten(2)[..., -n:]
    return torch.cat([F.pad(past, (T - n, 0)), ahead], dim=-1)
