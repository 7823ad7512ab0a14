"""Equations 7 and 8 on a CPU: every variable's GRN and their mixture, in pieces that stay in cache.

The reference is `VariableSelection._transform_variables`. What a GRN makes of a variable is many
times what it reads, and is needed for the mixture alone: here a piece of the rows at a time goes
through all layers, in buffers that are used again for the next piece. The backward pass, derived by
hand, computes them again instead of keeping them.

Everything is laid out features first, so that layer norm and mixture add whole rows of memory.

V variables, N rows (batch x steps), n rows of a piece, C channels, E hidden of a variable, D hidden.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.amp import custom_bwd, custom_fwd
from torch.autograd import Function
from torch.autograd.function import once_differentiable

PIECE = 330_000  # elements of [V, D, n]: 1.3 MB in float32, of which a piece needs five or so
EPSILON = 1e-5  # of layer norm
ops = torch.ops.aten


class VariableLayers(NamedTuple):
    """The layers of all variables' GRNs; a last column of the weights is the bias."""

    first: Tensor  # [V, E + D, C + 1]: W2 above the projection of the skip
    hidden: Tensor  # [V, E, E + 1]: W1
    gate: Tensor  # [V, 2 * D, E + 1]: W5 above W4
    scale: Tensor  # [V, D] of layer norm
    shift: Tensor  # [V, D] of layer norm


def mix_variables(
    inputs: Tensor, keep: Tensor | None, weights: Tensor, layers: VariableLayers
) -> Tensor:
    """Transform every variable and mix them by their weights.

    Args:
        inputs: [V, C + 1, N], the last channel 1.
        keep: dropout mask [V, E, N] of the hidden layers, None to drop nothing.
        weights: [V, N] selection weights.
        layers: of the variables' GRNs.

    Returns:
        [D, N], in float32 under autocast.
    """
    mixed: Tensor = _MixVariables.apply(inputs, keep, weights, *layers)
    return mixed


class _Buffers(NamedTuple):
    """What a piece's layers write; the last rows of `activated` and `dropped` are 1, for biases."""

    activated: Tensor  # [V, E + 1, n] ELU(n2)
    dropped: Tensor  # [V, E + 1, n] n1 after dropout
    small: Tensor  # [V, E, n] scratch
    gate: Tensor  # [V, 2 * D, n] its linear half above the sigmoid of the other
    centred: Tensor  # [V, D, n] what layer norm normalises, less its mean
    scratch: Tensor  # [V, D, n]
    row: Tensor  # [V, 1, n] scratch
    inverse: Tensor  # [V, 1, n] 1 / standard deviation

    @classmethod
    def make(cls, layers: VariableLayers, n: int) -> "_Buffers":
        V, E, _ = layers.hidden.shape
        D = layers.scale.shape[1]
        new = layers.scale.new_empty
        activated, dropped = new(V, E + 1, n), new(V, E + 1, n)
        activated[:, E], dropped[:, E] = 1, 1
        return cls(
            activated, dropped, new(V, E, n), new(V, 2 * D, n), new(V, D, n), new(V, D, n),
            new(V, 1, n), new(V, 1, n),
        )  # fmt: skip


def _pieces(layers: VariableLayers, N: int) -> Iterator[tuple[slice, _Buffers]]:
    """Cut the rows; all pieces but the last share their buffers."""
    V, D = layers.scale.shape
    n = min(N, PIECE // (V * D) | 16)  # never a power of 2, whose rows share their places in cache
    buffers = _Buffers.make(layers, n)
    for start in range(0, N, n):
        if N - start < n:
            buffers = _Buffers.make(layers, N - start)
        yield slice(start, min(start + n, N)), buffers


def _transform(inputs: Tensor, keep: Tensor | None, layers: VariableLayers, b: _Buffers) -> None:
    """Equation 7 up to the affine part of layer norm: fill all buffers but the scratch ones."""
    E, D = layers.hidden.shape[1], layers.scale.shape[1]
    torch.bmm(layers.first[:, :E], inputs, out=b.small)
    ops.elu.out(b.small, out=b.activated[:, :E])
    torch.bmm(layers.hidden, b.activated, out=b.small)
    if keep is None:
        b.dropped[:, :E].copy_(b.small)
    else:
        torch.mul(b.small, keep, out=b.dropped[:, :E])
    torch.bmm(layers.gate, b.dropped, out=b.gate)
    torch.mul(b.gate[:, :D], b.gate[:, D:].sigmoid_(), out=b.centred)
    b.centred.baddbmm_(layers.first[:, E:], inputs)
    b.centred.sub_(torch.mean(b.centred, 1, keepdim=True, out=b.row))
    torch.mul(b.centred, b.centred, out=b.scratch)
    torch.mean(b.scratch, 1, keepdim=True, out=b.inverse).add_(EPSILON).rsqrt_()


class _MixVariables(Function):
    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)
    def forward(  # type: ignore[override]
        ctx: Any, inputs: Tensor, keep: Tensor | None, weights: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.save_for_backward(inputs, keep, weights, *parameters)
        layers = VariableLayers(*parameters)
        mixed = layers.shift.t() @ weights
        scale = layers.scale.unsqueeze(-1)
        for rows, b in _pieces(layers, weights.shape[1]):
            _transform(inputs[..., rows], None if keep is None else keep[..., rows], layers, b)
            b.inverse.mul_(weights[:, None, rows])
            mixed[:, rows] += b.centred.mul_(b.inverse).mul_(scale).sum(0)
        return mixed

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")
    def backward(ctx: Any, d_mixed: Tensor) -> tuple[Tensor | None, ...]:
        inputs, keep, weights, *parameters = ctx.saved_tensors
        layers = VariableLayers(*parameters)
        V, E, _ = layers.hidden.shape
        D = layers.scale.shape[1]
        d_mixed = d_mixed.contiguous()
        d_first, d_gate = torch.zeros_like(layers.first), torch.zeros_like(layers.gate)
        d_hidden, d_scale = torch.zeros_like(layers.hidden), torch.zeros_like(layers.scale)
        d_weights, d_shift = layers.shift @ d_mixed, weights @ d_mixed.t()
        minus_mean = (layers.scale @ d_mixed).div_(-D).unsqueeze(1)  # [V, 1, N]
        for rows, b in _pieces(layers, weights.shape[1]):
            kept = None if keep is None else keep[..., rows]
            d = d_mixed[:, rows]
            _transform(inputs[..., rows], kept, layers, b)
            # The mixture and layer norm.
            scaled = b.inverse * weights[:, None, rows]
            torch.mul(b.centred, d, out=b.scratch)
            torch.bmm(layers.scale.unsqueeze(1), b.scratch, out=b.row)
            d_scale += b.scratch.mul_(scaled).sum(-1)
            d_weights[:, rows] += b.row.mul_(b.inverse).squeeze(1)
            b.centred.mul_(b.row.mul_(b.inverse).div_(-D))
            torch.addcmul(minus_mean[..., rows], layers.scale.unsqueeze(-1), d, out=b.scratch)
            d_y = b.centred.add_(b.scratch).mul_(scaled)
            # The gate, whose halves' gradients take the places of the scratch and of the sigmoid.
            linear, sigmoid = b.gate[:, :D], b.gate[:, D:]
            d_linear = torch.mul(d_y, sigmoid, out=b.scratch)
            linear.mul_(d_linear)
            d_sigmoid = torch.addcmul(linear, linear, sigmoid, value=-1, out=sigmoid)
            d_gate[:, :D] += _product(d_linear, b.dropped)
            d_gate[:, D:] += _product(d_sigmoid, b.dropped)
            torch.bmm(layers.gate[:, :D, :E].transpose(1, 2), d_linear, out=b.small)
            b.small.baddbmm_(layers.gate[:, D:, :E].transpose(1, 2), d_sigmoid)
            # The hidden layer, ELU, and the first layer with the skip beside it.
            if kept is not None:
                b.small.mul_(kept)
            d_hidden += _product(b.small, b.activated)
            d_n2 = torch.bmm(layers.hidden[..., :E].transpose(1, 2), b.small)
            d_n2.mul_(b.activated[:, :E].clamp(max=0).add_(1))
            d_first[:, :E] += _product(d_n2, inputs[..., rows])
            d_first[:, E:] += _product(d_y, inputs[..., rows])
        return None, None, d_weights, d_first, d_hidden, d_gate, d_scale, d_shift


def _product(wide: Tensor, narrow: Tensor) -> Tensor:
    """Return wide [V, a, n] narrow^T [V, n, b]; with the narrow one first it takes less time."""
    return torch.bmm(narrow, wide.transpose(1, 2)).transpose(1, 2)
