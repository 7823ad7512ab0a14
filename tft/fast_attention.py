"""Attention on a CPU, a few windows at a time, so that their scores never leave the cache.

The reference is `scaled_dot_product_attention`; the backward pass is derived by hand and computes
the scores again instead of keeping them. With heads of a few features, everything is laid out
features first: a matrix product with 4 columns takes three times as long as one with 4 rows.

B batch, n windows at a time, N heads, H queries, L keys, d features of a head.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd import Function
from torch.autograd.function import once_differentiable

SCORES = 330_000  # [n, N, H, L] at a time: 1.3 MB, or one window


def attend(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """Return softmax(queries keys^T / sqrt(d)) values for each head; heads share the values.

    Args:
        queries: [B, N, d, H].
        keys: [B, N, d, L].
        values: [B, d, L].
        mask: bool, broadcasts to [B, H, L], True where a query may look: at least at one key.

    Returns:
        [B, N, d, H], in float32 under autocast.
    """
    hidden = (~mask).expand(queries.shape[0], queries.shape[-1], keys.shape[-1])
    heads: Tensor = _Attend.apply(queries, keys, values, hidden)  # type: ignore[no-untyped-call]
    return heads


class _Attend(Function):
    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, hidden: Tensor) -> Tensor:
        B, N, d, H = queries.shape
        scaled = (queries / math.sqrt(d)).contiguous()
        keys, values = keys.contiguous(), values.contiguous()
        hidden = hidden[:, :, _first_hidden(hidden) :]
        penalty = torch.zeros_like(hidden, dtype=keys.dtype).masked_fill_(hidden, -torch.inf)
        rows = scaled.new_empty(B, d, N * H)
        for some, weights in _windows_at_a_time(scaled, keys.shape[-1]):
            _weigh(scaled[some], keys[some], penalty[some], weights)
            torch.bmm(values[some], weights.flatten(1, 2).mT, out=rows[some])
        out = rows.view(B, d, N, H).transpose(1, 2).contiguous()
        ctx.save_for_backward(scaled, keys, values, penalty, out)
        return out

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(  # type: ignore[override]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        (d_out,) = gradients
        scaled, keys, values, penalty, out = ctx.saved_tensors
        B, N, d, H = scaled.shape
        L = keys.shape[-1]
        d_out = d_out.contiguous()
        d_scaled, d_keys, d_values = map(torch.empty_like, (scaled, keys, values))
        # The softmax's backward subtracts sum over keys of weight * d_weight, which is d_out * out.
        inner = (d_out * out).sum(2).unsqueeze(-1)  # [B, N, H, 1]
        d_rows = d_out.transpose(1, 2).reshape(B, d, N * H)
        for some, weights in _windows_at_a_time(scaled, L):
            _weigh(scaled[some], keys[some], penalty[some], weights)
            torch.bmm(d_rows[some], weights.flatten(1, 2), out=d_values[some])
            d_scores = torch.bmm(d_rows[some].mT, values[some]).view_as(weights)
            d_scores.sub_(inner[some]).mul_(weights)
            by_head = d_scores.flatten(0, 1)  # [n * N, H, L]
            torch.bmm(keys[some].flatten(0, 1), by_head.mT, out=d_scaled[some].flatten(0, 1))
            torch.bmm(scaled[some].flatten(0, 1), by_head, out=d_keys[some].flatten(0, 1))
        return d_scaled.div_(math.sqrt(d)), d_keys, d_values, None


def _windows_at_a_time(scaled: Tensor, L: int) -> Iterator[tuple[slice, Tensor]]:
    """Yield which windows are next, and memory for their weights [n, N, H, L], used again."""
    B, N, _, H = scaled.shape
    n = min(B, max(1, SCORES // (N * H * L)))
    weights = scaled.new_empty(n, N, H, L)
    for start in range(0, B, n):
        yield slice(start, start + n), weights[: B - start]


def _weigh(scaled: Tensor, keys: Tensor, penalty: Tensor, weights: Tensor) -> None:
    """Write n windows' attention weights [n, N, H, L]; the penalty is of the last keys only."""
    torch.bmm(scaled.flatten(0, 1).mT, keys.flatten(0, 1), out=weights.flatten(0, 1))
    hidden = weights[..., -penalty.shape[-1] :]
    hidden.add_(penalty.unsqueeze(1))  # masked_fill_ takes four times as long
    torch.softmax(weights, -1, out=weights)


def _first_hidden(hidden: Tensor) -> int:
    """Return the first key that is hidden from any query; one key where none is."""
    some = hidden.any(0).any(0).nonzero()
    return int(some[0]) if len(some) else hidden.shape[-1] - 1
