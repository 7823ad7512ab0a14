"""Interpretable multi-head attention, section 4.4, for the horizon's queries only.

B batch, H queries (horizon steps), L keys (context and horizon), D hidden, N heads.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tft.dropout import Dropout
from tft.fast_attention import attend
from tft.fast_path import runs_fast


class InterpretableMultiHeadAttention(nn.Module):
    """Attention whose heads share one value projection and are averaged, equations 13 to 16."""

    def __init__(self, hidden_size: int, attention_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if hidden_size % attention_heads:
            raise ValueError(
                f"hidden_size {hidden_size} must be a multiple of attention_heads {attention_heads}"
            )
        self.heads = attention_heads
        self.head_size = hidden_size // attention_heads
        self.query = nn.Linear(hidden_size, hidden_size)  # every head's W_Q side by side
        self.key = nn.Linear(hidden_size, hidden_size)
        self.value = nn.Linear(hidden_size, self.head_size)  # W_V, shared across heads
        self.output = nn.Linear(self.head_size, hidden_size, bias=False)  # W_H
        self.dropout = Dropout(dropout)
        self.fast_path = True

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Attend from horizon steps to the context and the horizon.

        Args:
            queries: [B, H, D].
            keys: [B, L, D], also the values' source.
            mask: boolean, broadcasts to [B, H, L]; True where a query may look. Every query must
                be allowed at least one key.

        Returns:
            [B, H, D].
        """
        q, k = self._split(self.query(queries)), self._split(self.key(keys))  # [B, N, H or L, d]
        v = self.value(keys)  # [B, L, d]
        if self.fast_path and runs_fast(keys):
            q, k, v = q.transpose(-2, -1), k.transpose(-2, -1), v.transpose(-2, -1)
            heads = attend(q, k, v, mask).transpose(-2, -1)
        else:
            v = v.unsqueeze(1).expand(-1, self.heads, -1, -1)  # [B, N, L, d]
            heads = F.scaled_dot_product_attention(q, k, v, mask.unsqueeze(1))  # [B, N, H, d]
        # Equation 15: averaging heads averages their attention. Dropout is on the heads' outputs,
        # as in the authors' code; on attention weights it would cost more than the attention.
        attended: Tensor = self.output(self.dropout(heads).mean(1))
        return attended

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """Return what `forward` weighs the values by, averaged over heads, [B, H, L]."""
        q, k = self._split(self.query(queries)), self._split(self.key(keys))
        scores = q @ k.transpose(-2, -1) / math.sqrt(self.head_size)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        scores = scores.masked_fill(~mask.unsqueeze(1), -torch.inf)
        return torch.softmax(scores, dim=-1).mean(1)

    def _split(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], self.heads, self.head_size).transpose(1, 2)
