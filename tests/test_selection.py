"""Variable selection for all variables at once equals a loop over the paper's formulas."""

import pytest
import torch
from torch import Tensor

from tests.test_layers import elu, layer_norm, perturb, sigmoid
from tft.selection import RealEmbedding, VariableSelection

B, T, V, E, D = 2, 3, 4, 5, 6


def build(has_context: bool = True) -> tuple[VariableSelection, RealEmbedding]:
    torch.manual_seed(0)
    selection = VariableSelection(V, E, D, dropout=0.5, has_context=has_context).double().eval()
    embedding = RealEmbedding(V, E).double()
    perturb(selection)
    return selection, embedding


def by_the_paper(s: VariableSelection, xi: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
    """Equations 6 to 8 with a GRN per variable, one after the other; xi is [B, T, V, E]."""
    transformed = []
    for v in range(V):
        first = xi[:, :, v] @ s.variable_input[v] + s.variable_input_bias[v]
        n2, skip = first[..., :E], first[..., E:]
        n1 = elu(n2) @ s.variable_hidden[v] + s.variable_hidden_bias[v]
        gate = n1 @ s.variable_gate[v] + s.variable_gate_bias[v]
        x = skip + sigmoid(gate[..., D:]) * gate[..., :D]
        centred = x - x.mean(-1, keepdim=True)
        normed = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
        transformed.append(normed * s.variable_norm_weight[v] + s.variable_norm_bias[v])
    flat = torch.cat([xi[:, :, v] for v in range(V)], dim=-1)
    W2 = torch.cat([s.selection_input[v] for v in range(V)], dim=0)
    first = flat @ W2 + s.selection_input_bias
    n2, skip = first[..., :D], first[..., D:]
    if s.selection_context is not None and context is not None:
        n2 = n2 + (context @ s.selection_context.weight.T)[:, None]
    n1 = elu(n2) @ s.selection_hidden.weight.T + s.selection_hidden.bias
    gate = n1 @ s.selection_gate.weight.T + s.selection_gate.bias
    scores = layer_norm(skip + sigmoid(gate[..., V:]) * gate[..., :V], s.selection_norm)
    weights = torch.exp(scores) / torch.exp(scores).sum(-1, keepdim=True)
    mixed = sum(weights[..., v : v + 1] * transformed[v] for v in range(V))
    assert isinstance(mixed, Tensor)
    return mixed, weights


@pytest.mark.parametrize("has_context", [False, True])
def test_equals_the_paper(has_context: bool) -> None:
    selection, _ = build(has_context)
    xi = torch.randn(B, T, V, E).double()
    context = torch.randn(B, D).double() if has_context else None
    mixed, weights = selection(xi, context=context)
    expected, expected_weights = by_the_paper(selection, xi, context)
    torch.testing.assert_close(mixed, expected)
    torch.testing.assert_close(weights, expected_weights)
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, T).double())


def test_folding_the_embedding_changes_neither_output_nor_gradient() -> None:
    """Two linear layers in a row are one: the fast path must equal embedding first."""
    selection, embedding = build()
    x = torch.randn(B, T, V, 2, dtype=torch.float64, requires_grad=True)
    context = torch.randn(B, D, dtype=torch.float64, requires_grad=True)
    parameters = [x, context, *embedding.parameters(), *selection.parameters()]
    target = torch.randn(B, T, D).double()
    gradients = []
    for mixed, _ in (selection(x, embedding, context), selection(embedding(x), None, context)):
        loss = ((mixed - target) ** 2).sum()
        gradients.append((loss, *torch.autograd.grad(loss, parameters)))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_gradients() -> None:
    selection, embedding = build()
    x = torch.randn(B, T, V, 2, dtype=torch.float64, requires_grad=True)
    context = torch.randn(B, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, c: selection(x, embedding, c), (x, context))


def test_a_variable_that_moves_alone_changes_its_own_part_only() -> None:
    """Each variable has its own GRN: nothing leaks from one to another but through the weights."""
    selection, _ = build(has_context=False)
    inputs = torch.randn(V, B * T, E).double()
    moved = inputs.clone()
    moved[1] += 1
    before = selection._transform_variables(inputs, None)
    after = selection._transform_variables(moved, None)
    assert torch.equal(before[[0, 2, 3]], after[[0, 2, 3]])
    assert not torch.equal(before[1], after[1])


def test_dropout_is_only_in_training() -> None:
    selection, embedding = build(has_context=False)
    x = torch.randn(B, T, V, 2).double()
    assert torch.equal(selection(x, embedding)[0], selection(x, embedding)[0])
    selection.train()
    assert not torch.equal(selection(x, embedding)[0], selection(x, embedding)[0])
