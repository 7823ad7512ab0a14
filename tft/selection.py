"""Variable selection, section 4.2, for all variables at once.

B batch, T steps, V variables, C channels of a variable, E embedding, D hidden, N = B * T.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tft.dropout import dropout, keep_mask
from tft.fast_path import runs_fast
from tft.fast_selection import VariableLayers, mix_variables, with_bias

CHANNELS = 2  # of a real variable: its value and whether it was seen; or a point on a circle


class RealEmbedding(nn.Module):
    """One linear map per real variable from its channels to an embedding vector."""

    def __init__(self, num_variables: int, embedding_size: int, channels: int = CHANNELS) -> None:
        super().__init__()
        self.weight = _uniform(num_variables, channels, embedding_size, fan_in=channels)
        self.bias = _uniform(num_variables, embedding_size, fan_in=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Embed [..., V, C] as [..., V, E]."""
        return torch.einsum("...vc,vce->...ve", x, self.weight) + self.bias


class VariableSelection(nn.Module):
    """Weigh variables and mix their transformed embeddings, equations 6 to 8.

    Every variable has a GRN of its own (equation 7), evaluated for all variables in one batched
    product; another GRN over the flattened embeddings gives the softmax weights (equation 6).
    """

    def __init__(
        self,
        num_variables: int,
        embedding_size: int,
        hidden_size: int,
        dropout: float = 0.0,
        has_context: bool = False,
    ) -> None:
        super().__init__()
        V, E, D = num_variables, embedding_size, hidden_size
        self.embedding_size, self.hidden_size, self.dropout = E, D, dropout
        self.fast_path = True
        # Equation 7: W2 and the skip projection of each variable's GRN side by side, W1, the gate.
        self.variable_input = _uniform(V, E, E + D, fan_in=E)
        self.variable_input_bias = _uniform(V, E + D, fan_in=E)
        self.variable_hidden = _uniform(V, E, E, fan_in=E)
        self.variable_hidden_bias = _uniform(V, E, fan_in=E)
        self.variable_gate = _uniform(V, E, 2 * D, fan_in=E)
        self.variable_gate_bias = _uniform(V, 2 * D, fan_in=E)
        self.variable_norm_weight = nn.Parameter(torch.ones(V, D))
        self.variable_norm_bias = nn.Parameter(torch.zeros(V, D))
        # Equation 6: the same layers of the selection GRN; its input is the flattened [V * E].
        self.selection_input = _uniform(V, E, D + V, fan_in=V * E)
        self.selection_input_bias = _uniform(D + V, fan_in=V * E)
        self.selection_context = nn.Linear(D, D, bias=False) if has_context else None
        self.selection_hidden = nn.Linear(D, D)
        self.selection_gate = nn.Linear(D, 2 * V)
        self.selection_norm = nn.LayerNorm(V)

    def forward(
        self, x: Tensor, embedding: RealEmbedding | None = None, context: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Select among variables at every step.

        Args:
            x: embeddings [B, T, V, E], or with `embedding` the real variables [B, T, V, C].
            embedding: folded into the first layers instead of being applied: two linear maps in a
                row are one, so embeddings [B, T, V, E] never reach memory.
            context: static context c_s [B, D], if built with one.

        Returns:
            The mixed variables [B, T, D] and the selection weights [B, T, V].
        """
        B, T, V, _ = x.shape
        inputs = x.permute(2, 0, 1, 3).reshape(V, B * T, -1)  # [V, N, C or E]
        weights = self._selection_weights(inputs, B, embedding, context)  # [V, N]
        if self.fast_path and runs_fast(x) and not x.requires_grad:
            mixed = self._mix_fast(inputs, embedding, weights)  # [N, D]
        else:
            variables = self._transform_variables(inputs, embedding)  # [V, N, D]
            mixed = (weights.unsqueeze(-1) * variables).sum(0)  # equation 8
        return mixed.view(B, T, -1), weights.t().view(B, T, V)

    def _folded(self, embedding: RealEmbedding | None) -> tuple[Tensor, Tensor]:
        """Return the first layers' weights [V, C or E, E + D] and biases [V, E + D]."""
        weight: Tensor = self.variable_input
        bias: Tensor = self.variable_input_bias
        if embedding is None:
            return weight, bias
        bias = bias + torch.einsum("ve,veo->vo", embedding.bias, weight)
        return torch.bmm(embedding.weight, weight), bias

    def _mix_fast(self, inputs: Tensor, embedding: RealEmbedding | None, weights: Tensor) -> Tensor:
        """Equations 7 and 8: [V, N, C or E] and [V, N] -> [N, D]."""
        weight, bias = self._folded(embedding)
        layers = VariableLayers(
            with_bias(weight.mT, bias),
            with_bias(self.variable_hidden.mT, self.variable_hidden_bias),
            with_bias(self.variable_gate.mT, self.variable_gate_bias),
            self.variable_norm_weight,
            self.variable_norm_bias,
        )
        shape = (len(inputs), self.embedding_size, inputs.shape[1])
        drops = self.training and self.dropout > 0.0
        keep = keep_mask(inputs, self.dropout, shape) if drops else None
        return mix_variables(inputs.mT, weights, layers, keep).t()

    def _transform_variables(self, inputs: Tensor, embedding: RealEmbedding | None) -> Tensor:
        """Equation 7: [V, N, C or E] -> [V, N, D]."""
        weight, bias = self._folded(embedding)
        first = torch.baddbmm(bias.unsqueeze(1), inputs, weight)  # [V, N, E + D]
        n2, skip = torch.split(first, [self.embedding_size, self.hidden_size], dim=-1)
        n1 = torch.baddbmm(self.variable_hidden_bias.unsqueeze(1), F.elu(n2), self.variable_hidden)
        n1 = dropout(n1, self.dropout, self.training, self.fast_path)
        gate = torch.baddbmm(self.variable_gate_bias.unsqueeze(1), n1, self.variable_gate)
        normed = F.layer_norm(skip + F.glu(gate), (self.hidden_size,))
        return torch.addcmul(
            self.variable_norm_bias.unsqueeze(1), normed, self.variable_norm_weight.unsqueeze(1)
        )

    def _selection_weights(
        self, inputs: Tensor, batch: int, embedding: RealEmbedding | None, context: Tensor | None
    ) -> Tensor:
        """Equation 6: [V, N, C or E] -> [V, N]."""
        V, N, _ = inputs.shape
        weight: Tensor = self.selection_input
        bias: Tensor = self.selection_input_bias
        if embedding is not None:
            bias = bias + torch.einsum("ve,veo->o", embedding.bias, weight)
            weight = torch.bmm(embedding.weight, weight)  # [V, C, D + V]
        flat = inputs.transpose(0, 1).reshape(N, -1)  # [N, V * (C or E)]
        first = torch.addmm(bias, flat, weight.flatten(0, 1))
        n2, skip = torch.split(first, [self.hidden_size, V], dim=-1)
        if (context is None) != (self.selection_context is None):
            raise ValueError("selection takes a context exactly when built with has_context=True")
        if self.selection_context is not None:
            n2 = n2.view(batch, -1, self.hidden_size) + self.selection_context(context).unsqueeze(1)
            n2 = n2.view(N, -1)
        n1 = self.selection_hidden(F.elu(n2))
        n1 = dropout(n1, self.dropout, self.training, self.fast_path)
        scores = self.selection_norm(skip + F.glu(self.selection_gate(n1)))
        # Along rows: of few values in each it would take nine times as long.
        return torch.softmax(scores.t(), dim=0)


def _uniform(*shape: int, fan_in: int) -> nn.Parameter:
    """Return a parameter drawn as nn.Linear draws its weight and bias."""
    bound = 1 / math.sqrt(fan_in)
    return nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
