"""The blocks equal the paper's formulas, written here plainly in float64."""

import pytest
import torch
from torch import Tensor, nn

from tft.layers import GatedLinearUnit, GatedResidualNetwork, GatedSkip

D = 6


def elu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.exp(x) - 1)


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred / torch.sqrt(variance + norm.eps) * norm.weight + norm.bias


def glu(g: Tensor, unit: GatedLinearUnit) -> Tensor:
    W5, W4 = unit.linear.weight.chunk(2)
    b5, b4 = unit.linear.bias.chunk(2)
    return sigmoid(g @ W4.T + b4) * (g @ W5.T + b5)


def perturb(module: nn.Module) -> None:
    """Move every parameter off its initial value, so that none hides (norm weights start at 1)."""
    for parameter in module.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)


@pytest.mark.parametrize("has_context", [False, True])
def test_grn_equals_equations_2_to_5(has_context: bool) -> None:
    torch.manual_seed(0)
    grn = GatedResidualNetwork(D, dropout=0.5, has_context=has_context).double().eval()
    perturb(grn)
    a, c = torch.randn(2, 5, D).double(), torch.randn(2, 1, D).double()
    n2 = a @ grn.input.weight.T + grn.input.bias
    if grn.context is not None:
        n2 = n2 + c @ grn.context.weight.T
    n1 = elu(n2) @ grn.hidden.weight.T + grn.hidden.bias
    expected = layer_norm(a + glu(n1, grn.skip.gate), grn.skip.norm)
    actual = grn(a, c) if has_context else grn(a)
    torch.testing.assert_close(actual, expected)


def test_gated_skip_equals_equation_17() -> None:
    torch.manual_seed(0)
    block = GatedSkip(D, dropout=0.5).double().eval()
    perturb(block)
    x, skip = torch.randn(4, D).double(), torch.randn(4, D).double()
    torch.testing.assert_close(block(x, skip), layer_norm(skip + glu(x, block.gate), block.norm))


def test_dropout_is_before_the_gate_and_only_in_training() -> None:
    torch.manual_seed(0)
    unit = GatedLinearUnit(D, D, dropout=0.5).double()
    x = torch.randn(1000, D).double()
    assert not torch.equal(unit(x), unit(x))
    blind = GatedLinearUnit(D, D, dropout=0.5).double()
    blind.linear.weight.data.zero_()  # what is dropped reaches nothing: only biases are left
    assert len(blind(x).unique(dim=0)) == 1
    unit.eval()
    assert torch.equal(unit(x), unit(x))


def test_gradients() -> None:
    torch.manual_seed(0)
    a = torch.randn(2, 3, D, dtype=torch.float64, requires_grad=True)
    c = torch.randn(2, 1, D, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(GatedLinearUnit(D, 4).double(), (a,))
    assert torch.autograd.gradcheck(GatedSkip(D).double(), (a, a.detach().clone()))
    assert torch.autograd.gradcheck(GatedResidualNetwork(D, has_context=True).double(), (a, c))


def test_a_context_nobody_asked_for_is_refused() -> None:
    with pytest.raises(ValueError, match="has_context"):
        GatedResidualNetwork(D)(torch.zeros(1, D), torch.zeros(1, D))
    with pytest.raises(ValueError, match="has_context"):
        GatedResidualNetwork(D, has_context=True)(torch.zeros(1, D))
