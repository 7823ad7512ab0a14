"""Interpretable attention: shared values, averaged heads, masks that hold."""

import math

import pytest
import torch
from torch import Tensor

from tft.attention import InterpretableMultiHeadAttention

B, H, L, D, N = 2, 3, 7, 8, 4


def build(dropout: float = 0.0) -> tuple[InterpretableMultiHeadAttention, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    attention = InterpretableMultiHeadAttention(D, N, dropout).double().eval()
    queries, keys = torch.randn(B, H, D).double(), torch.randn(B, L, D).double()
    mask = torch.rand(B, H, L) < 0.6
    mask[..., -1] = True
    return attention, queries, keys, mask


def by_the_paper(
    a: InterpretableMultiHeadAttention, queries: Tensor, keys: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Equations 13 to 16, head by head; every head weighs the same V W_V."""
    d = D // N
    q, k = a.query(queries), a.key(keys)
    value = a.value(keys)
    total = torch.zeros(B, H, L).double()
    for n in range(N):
        part = slice(n * d, (n + 1) * d)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(d)
        weights = torch.exp(scores) * mask
        total += weights / weights.sum(-1, keepdim=True) / N
    return total @ value @ a.output.weight.T, total


def test_equals_the_paper_with_values_shared_across_heads() -> None:
    attention, queries, keys, mask = build()
    expected, expected_weights = by_the_paper(attention, queries, keys, mask)
    torch.testing.assert_close(attention(queries, keys, mask), expected)
    torch.testing.assert_close(attention.weights(queries, keys, mask), expected_weights)


def test_rows_sum_to_one_and_masked_keys_weigh_nothing() -> None:
    attention, queries, keys, mask = build()
    weights = attention.weights(queries, keys, mask)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, H).double())
    assert weights[~mask].abs().max() == 0


def test_masked_keys_do_not_move_the_output() -> None:
    attention, queries, keys, mask = build()
    mask[:, :, 2] = False
    moved = keys.clone()
    moved[:, 2] += 100
    assert torch.equal(attention(queries, keys, mask), attention(queries, moved, mask))


def test_gradients() -> None:
    attention, queries, keys, mask = build()
    queries.requires_grad_()
    keys.requires_grad_()
    assert torch.autograd.gradcheck(lambda q, k: attention(q, k, mask), (queries, keys))


def test_dropout_is_only_in_training() -> None:
    attention, queries, keys, mask = build(dropout=0.5)
    assert torch.equal(attention(queries, keys, mask), attention(queries, keys, mask))
    attention.train()
    assert not torch.equal(attention(queries, keys, mask), attention(queries, keys, mask))


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="hidden_size 8 must be a multiple of attention_heads 3"):
        InterpretableMultiHeadAttention(8, 3)
