"""Equations 7 and 8 on a CPU: every variable's GRN and their mixture, in pieces that stay in cache.

The reference is `VariableSelection._transform_variables`. What a GRN makes of a variable is many
times what it reads, and is needed for the mixture alone: here a piece of the rows at a time goes
through all layers, in buffers that are used again for the next piece. The backward pass, derived by
hand, computes them again instead of keeping them.

Everything is laid out features first, so that layer norm and mixture add whole rows of memory.

V variables, N rows (batch x steps), n rows of a piece, C channels, E hidden of a GRN, D hidden.
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
    """Layers of the variables' GRNs; a last column of the weights is the bias."""

    first: Tensor  # [V, E + D, C + 1]: W2 above the projection of the skip
    hidden: Tensor  # [V, E, E + 1]: W1
    gate: Tensor  # [V, 2 * D, E + 1]: W5 above W4
    scale: Tensor  # [V, D] of layer norm
    shift: Tensor  # [V, D] of layer norm

    @property
    def sizes(self) -> tuple[int, int, int]:
        """V, E and D."""
        V, D = self.scale.shape
        return V, self.hidden.shape[1], D


def with_bias(weight: Tensor, bias: Tensor) -> Tensor:
    """Return weights [V, out, in] with the biases [V, out] as a last column."""
    return torch.cat([weight, bias.unsqueeze(-1)], dim=-1)


def mix_variables(
    inputs: Tensor, weights: Tensor, layers: VariableLayers, keep: Tensor | None = None
) -> Tensor:
    """Transform every variable and mix them by their weights.

    Args:
        inputs: [V, C, N], whose gradient is not computed.
        weights: [V, N] selection weights.
        layers: of the variables' GRNs.
        keep: dropout mask [V, E, N] of the hidden layers; None drops nothing.

    Returns:
        [D, N], in float32 under autocast.
    """
    ones = inputs.new_ones(inputs.shape[0], 1, inputs.shape[2])
    inputs = torch.cat([inputs, ones], dim=1)
    mixed: Tensor = _MixVariables.apply(inputs, weights, keep, *layers)  # type: ignore[no-untyped-call]
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
        V, E, D = layers.sizes
        new = layers.scale.new_empty
        activated, dropped = new(V, E + 1, n), new(V, E + 1, n)
        activated[:, E], dropped[:, E] = 1, 1
        return cls(
            activated, dropped, new(V, E, n), new(V, 2 * D, n), new(V, D, n), new(V, D, n),
            new(V, 1, n), new(V, 1, n),
        )  # fmt: skip


class _Piece(NamedTuple):
    """A piece's share of what is given, and the buffers it may use."""

    rows: slice
    inputs: Tensor  # [V, C + 1, n]
    weights: Tensor  # [V, 1, n]
    keep: Tensor | None  # [V, E, n]
    buffers: _Buffers


def _pieces(
    layers: VariableLayers, inputs: Tensor, weights: Tensor, keep: Tensor | None
) -> Iterator[_Piece]:
    """Cut the rows; all pieces but the last use the same buffers."""
    V, _, D = layers.sizes
    N = weights.shape[1]
    n = min(N, PIECE // (V * D) | 16)  # seldom a power of 2, whose rows share places in the cache
    buffers = _Buffers.make(layers, n)
    for start in range(0, N, n):
        rows = slice(start, min(start + n, N))
        if rows.stop - start < n:
            buffers = _Buffers.make(layers, rows.stop - start)
        kept = None if keep is None else keep[..., rows]
        yield _Piece(rows, inputs[..., rows], weights[:, None, rows], kept, buffers)


def _transform(layers: VariableLayers, piece: _Piece) -> None:
    """Equation 7 up to the affine part of layer norm: fill all buffers but the scratch ones."""
    _, E, D = layers.sizes
    b = piece.buffers
    torch.bmm(layers.first[:, :E], piece.inputs, out=b.small)
    ops.elu.out(b.small, out=b.activated[:, :E])
    torch.bmm(layers.hidden, b.activated, out=b.small)
    if piece.keep is None:
        b.dropped[:, :E].copy_(b.small)
    else:
        torch.mul(b.small, piece.keep, out=b.dropped[:, :E])
    torch.bmm(layers.gate, b.dropped, out=b.gate)
    torch.mul(b.gate[:, :D], b.gate[:, D:].sigmoid_(), out=b.centred)
    b.centred.baddbmm_(layers.first[:, E:], piece.inputs)
    b.centred.sub_(torch.mean(b.centred, 1, keepdim=True, out=b.row))
    torch.mul(b.centred, b.centred, out=b.scratch)
    torch.mean(b.scratch, 1, keepdim=True, out=b.inverse).add_(EPSILON).rsqrt_()


class _MixVariables(Function):
    @staticmethod
    @custom_fwd(device_type="cpu", cast_inputs=torch.float32)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any, inputs: Tensor, weights: Tensor, keep: Tensor | None, *parameters: Tensor
    ) -> Tensor:
        layers = VariableLayers(*(parameter.contiguous() for parameter in parameters))
        ctx.save_for_backward(inputs, weights, keep, *layers)
        mixed = layers.shift.t() @ weights
        scale = layers.scale.unsqueeze(-1)
        for piece in _pieces(layers, inputs, weights, keep):
            _transform(layers, piece)
            b = piece.buffers
            b.centred.mul_(b.inverse.mul_(piece.weights)).mul_(scale)
            mixed[:, piece.rows] += b.centred.sum(0)
        return mixed

    @staticmethod
    @once_differentiable
    @custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(  # type: ignore[override]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        (d_mixed,) = gradients
        inputs, weights, keep, *parameters = ctx.saved_tensors
        layers = VariableLayers(*parameters)
        d_mixed = d_mixed.contiguous()
        d_layers = VariableLayers(*map(torch.zeros_like, layers))
        torch.mm(weights, d_mixed.t(), out=d_layers.shift)
        d_weights = layers.shift @ d_mixed
        for piece in _pieces(layers, inputs, weights, keep):
            _transform(layers, piece)
            _derive(layers, piece, d_mixed[:, piece.rows], d_layers, d_weights[:, piece.rows])
        return None, d_weights, None, *d_layers


def _derive(
    layers: VariableLayers, piece: _Piece, d: Tensor, d_layers: VariableLayers, d_weights: Tensor
) -> None:
    """Add to the gradients of parameters and selection weights, given that of the mixture [D, n].

    What concerns the shift is there already.
    """
    _, E, D = layers.sizes
    b = piece.buffers
    # The mixture and layer norm.
    scaled = b.inverse * piece.weights
    torch.mul(b.centred, d, out=b.scratch)
    torch.bmm(layers.scale.unsqueeze(1), b.scratch, out=b.row)
    d_layers.scale.add_(b.scratch.mul_(scaled).sum(-1))
    d_weights.add_(b.row.mul_(b.inverse).squeeze(1))
    b.centred.mul_(b.row.mul_(b.inverse).div_(-D))
    minus_mean = (layers.scale @ d).div_(-D).unsqueeze(1)  # [V, 1, n]
    torch.addcmul(minus_mean, layers.scale.unsqueeze(-1), d, out=b.scratch)
    d_y = b.centred.add_(b.scratch).mul_(scaled)
    # The gate, whose gradient takes its place: d_y * s above d_y * linear * s * (1 - s).
    linear, sigmoid = b.gate[:, :D], b.gate[:, D:]
    torch.mul(d_y, linear, out=b.scratch)
    torch.mul(d_y, sigmoid, out=linear)
    b.scratch.mul_(sigmoid)
    torch.addcmul(b.scratch, b.scratch, sigmoid, value=-1, out=sigmoid)
    d_layers.gate.add_(_product(b.gate, b.dropped))
    torch.bmm(layers.gate.mT[:, :E], b.gate, out=b.small)
    # The hidden layer, ELU, and the first layer with the skip beside it.
    if piece.keep is not None:
        b.small.mul_(piece.keep)
    d_layers.hidden.add_(_product(b.small, b.activated))
    d_n2 = torch.bmm(layers.hidden.mT[:, :E], b.small)
    d_n2.mul_(b.activated[:, :E].clamp(max=0).add_(1))
    d_layers.first[:, :E] += _product(d_n2, piece.inputs)
    d_layers.first[:, E:] += _product(d_y, piece.inputs)


def _product(wide: Tensor, narrow: Tensor) -> Tensor:
    """Return wide [V, a, n] narrow^T [V, n, b]; with the narrow one first it takes less time."""
    return torch.bmm(narrow, wide.mT).mT
