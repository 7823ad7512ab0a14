"""The hand-derived layers equal the readable ones in outputs, gradients and behaviour."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import tft.fast_selection
from tests.builders import TINY, random_inputs, tiny_network, without_dropout
from tests.test_layers import perturb
from tft.attention import InterpretableMultiHeadAttention
from tft.dropout import Dropout
from tft.fast_attention import attend
from tft.fast_path import runs_fast, use_fast_path
from tft.fast_selection import VariableLayers, mix_variables
from tft.model import TFT, TFTConfig, TFTInputs
from tft.selection import RealEmbedding, VariableSelection


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Cut even small inputs into several pieces, the last one shorter."""
    monkeypatch.setattr(tft.fast_selection, "PIECE", 1)
    monkeypatch.setattr(tft.fast_attention, "SCORES", 400)
    yield


def results(network: TFT, inputs: TFTInputs, fast: bool) -> tuple[Tensor, list[Tensor]]:
    """Return a forecast and the gradients of something that depends on all of it."""
    use_fast_path(network, fast)
    quantiles = network(inputs).quantiles
    weights = torch.linspace(-1, 1, quantiles.numel(), dtype=quantiles.dtype).view_as(quantiles)
    loss = (weights * quantiles).sum()
    gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
    return quantiles.detach(), list(gradients)


def _cast(x: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return x.to(dtype) if x is not None and x.is_floating_point() else x


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm().clamp(min=1e-6))


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 5),
    context=st.integers(1, 40),
    horizon=st.integers(1, 12),
    past=st.integers(1, 6),
    future=st.integers(1, 5),
    targets=st.integers(1, 3),
    heads=st.sampled_from([1, 2, 4]),
    width=st.sampled_from([1, 3, 8]),
    embedding=st.integers(1, 9),
    seed=st.integers(0, 2**20),
)
def test_equal_for_any_shape_mask_and_length(
    batch: int, context: int, horizon: int, past: int, future: int, targets: int, heads: int,
    width: int, embedding: int, seed: int,
) -> None:  # fmt: skip
    """Outputs to 1e-5, gradients to 1e-4 in float32; far closer in float64."""
    draw = torch.manual_seed(seed)
    config = TFTConfig(
        past, future, targets, 1, (4,), hidden_size=heads * width, embedding_size=embedding,
        attention_heads=heads, dropout=0.0,
    )  # fmt: skip
    network = TFT(config)
    perturb(network)
    seen = torch.rand(batch, context, generator=draw) < 0.8
    inputs = TFTInputs(
        torch.randn(batch, context, past, 2, generator=draw),
        torch.randn(batch, horizon, future, 2, generator=draw),
        torch.randn(batch, 1, 2, generator=draw),
        torch.randint(0, 4, (batch, 1), generator=draw),
        seen,
        torch.randint(1, context + 1, (batch,), generator=draw),
    )
    for dtype, output_tolerance, gradient_tolerance in (
        (torch.float32, 1e-5, 1e-4),
        (torch.float64, 1e-12, 1e-10),
    ):
        network.to(dtype)
        cast = TFTInputs(*(_cast(x, dtype) for x in inputs))
        found, gradients = results(network, cast, fast=True)
        expected, expected_gradients = results(network, cast, fast=False)
        assert relative(found, expected) < output_tolerance
        total = torch.cat([g.flatten() for g in expected_gradients if g is not None]).norm()
        for gradient, wanted in zip(gradients, expected_gradients, strict=True):
            assert (gradient is None) == (wanted is None)
            if gradient is not None and wanted is not None:
                assert float((gradient - wanted).norm() / total) < gradient_tolerance


def test_selection_gradients_against_finite_differences() -> None:
    torch.manual_seed(0)
    V, E, D, C, N = 3, 2, 4, 2, 21
    shapes = [(V, N), (V, E + D, C + 1), (V, E, E + 1), (V, 2 * D, E + 1), (V, D), (V, D)]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    inputs, keep = torch.randn(V, C, N).double(), (torch.rand(V, E, N) < 0.7).double() / 0.7

    def mixed(weights: Tensor, *layers: Tensor) -> Tensor:
        return mix_variables(inputs, weights, VariableLayers(*layers), keep)

    assert torch.autograd.gradcheck(mixed, tensors)


def test_attention_gradients_against_finite_differences() -> None:
    torch.manual_seed(0)
    shapes = [(2, 3, 2, 4), (2, 3, 2, 6), (2, 2, 6)]
    tensors = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    mask = torch.rand(2, 4, 6) < 0.6
    mask[..., 2] = True
    assert torch.autograd.gradcheck(lambda q, k, v: attend(q, k, v, mask), tensors)


def test_nothing_hidden_is_a_mask_too() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 5), torch.randn(1, 3, 5)
    found = attend(q, k, v, torch.ones(1, 4, 5, dtype=torch.bool))
    weights = torch.softmax(q.mT @ k / 3**0.5, -1)
    torch.testing.assert_close(found, (weights @ v.mT.unsqueeze(1)).mT)


def test_one_mask_for_all_windows() -> None:
    torch.manual_seed(0)
    attention = InterpretableMultiHeadAttention(8, 2).eval()
    queries, keys = torch.randn(4, 3, 8), torch.randn(4, 5, 8)
    mask = torch.ones(3, 5, dtype=torch.bool).tril(2)
    found = [attention(queries, keys, m) for m in (mask[None], mask.expand(4, 3, 5))]
    use_fast_path(attention, False)
    for forecast in found:
        torch.testing.assert_close(forecast, attention(queries, keys, mask[None]))


def test_in_pieces_of_the_size_they_are_cut_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    torch.manual_seed(0)
    selection, embedding = VariableSelection(4, 8, 32), RealEmbedding(4, 8)
    x = torch.randn(19, 300, 4, 2)
    rows = 19 * 300
    assert 1 < rows * 4 * 32 / tft.fast_selection.PIECE < 3
    found = selection(x, embedding)[0]
    selection.fast_path = False
    torch.testing.assert_close(found, selection(x, embedding)[0])


def test_a_second_derivative_is_refused() -> None:
    q = torch.randn(1, 1, 2, 3, requires_grad=True)
    out = attend(q, q.detach(), torch.randn(1, 2, 3), torch.ones(1, 3, 3, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_asking_for_weights_keeps_the_path_and_changes_nothing() -> None:
    network, inputs = tiny_network(), random_inputs()
    plain, explained = network(inputs), network(inputs, return_weights=True)
    assert torch.equal(plain.quantiles, explained.quantiles)
    use_fast_path(network, False)
    readable = network(inputs, return_weights=True)
    for found, expected in zip(explained, readable, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_it_computes_in_float32(dtype: torch.dtype) -> None:
    """Half precision costs more than it saves there; gradients come back in the weights' own."""
    network, inputs = tiny_network(dtype=torch.float32).train(), random_inputs(dtype=torch.float32)
    without_dropout(network)
    exact, gradients = results(network, inputs, fast=True)
    with torch.autocast("cpu", dtype=dtype):
        found, half = results(network, inputs, fast=True)
    torch.testing.assert_close(found, exact, atol=0.05, rtol=0.05)
    assert all(g.dtype == torch.float32 for g in half if g is not None)
    flat = [torch.cat([g.flatten() for g in gs if g is not None]) for gs in (half, gradients)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.99


def test_dropout_is_of_the_same_rate_and_unbiased() -> None:
    """Averaged over many masks, both paths' mixtures have the same mean and spread."""
    torch.manual_seed(0)
    selection = VariableSelection(3, 4, 6, dropout=0.3).train()
    embedding, x = RealEmbedding(3, 4), torch.randn(1, 1, 3, 2).expand(4000, 5, 3, 2)
    moments = []
    for fast in (True, False):
        selection.fast_path = fast
        with torch.no_grad():
            mixed = selection(x, embedding)[0].flatten(0, 1)
        moments.append((mixed.mean(0), mixed.std(0)))
    spread = moments[0][1].max()
    assert spread > 0.01, "dropout was to do something"
    for found, expected in zip(*moments, strict=True):
        assert (found - expected).abs().max() < 0.05 * spread


def test_where_it_runs() -> None:
    assert runs_fast(torch.ones(1))
    assert not runs_fast(torch.ones(1, device="meta"))


def test_every_layer_with_two_paths_is_switched() -> None:
    network = tiny_network()
    parts = [m for m in network.modules() if hasattr(m, "fast_path")]
    kinds = {type(part) for part in parts}
    assert kinds == {VariableSelection, InterpretableMultiHeadAttention, Dropout}
    use_fast_path(network, False)
    assert not any(part.fast_path for part in parts)


def test_embeddings_with_a_gradient_of_their_own_take_the_readable_path() -> None:
    """Static selection reads embeddings that are learnt: their gradient must not get lost."""
    torch.manual_seed(0)
    network = TFT(replace(TINY, dropout=0.0)).double()
    results(network, random_inputs(), fast=True)
    loss = network(random_inputs()).quantiles.sum()
    loss.backward()
    for table in network.category_embeddings:
        assert table.weight.grad is not None and table.weight.grad.abs().sum() > 0
