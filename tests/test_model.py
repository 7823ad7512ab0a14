"""The whole network: causality, padding, missing values, precision, and what it imports."""

import importlib.metadata
import re
import subprocess
import venv
from pathlib import Path

import pytest
import torch

from tests.builders import TINY, random_inputs, tiny_network
from tft.model import TFT, TFTConfig, TFTInputs

B, T, H = 3, 7, 4


@pytest.mark.parametrize("step", range(H - 1))
@pytest.mark.parametrize("variable", range(TINY.num_future))
def test_a_step_does_not_see_later_known_inputs(step: int, variable: int) -> None:
    network, inputs = tiny_network(), random_inputs(B, T, H)
    future = inputs.future.clone()
    future[:, step + 1 :, variable] += 10
    before = network(inputs).quantiles
    after = network(inputs._replace(future=future)).quantiles
    assert torch.equal(before[:, : step + 1], after[:, : step + 1])
    assert not torch.equal(before[:, step + 1 :], after[:, step + 1 :])


@pytest.mark.parametrize("kind", ["past", "future", "static_reals", "static_codes"])
def test_every_input_kind_moves_the_forecast(kind: str) -> None:
    """The causality test would pass for an input nobody reads."""
    network, inputs = tiny_network(), random_inputs(B, T, H)
    value = getattr(inputs, kind)
    moved = (value + 1) % 3 if kind == "static_codes" else value + 1
    changed = network(inputs._replace(**{kind: moved})).quantiles
    assert not torch.equal(network(inputs).quantiles, changed)


@pytest.mark.parametrize("patch", [1, 2, 3, 9])
@pytest.mark.parametrize("lengths", [(7, 7, 7), (3, 3, 3), (1, 4, 7), (2, 6, 3)])
def test_left_padding_equals_the_shorter_sequence(lengths: tuple[int, ...], patch: int) -> None:
    network, inputs = tiny_network(patch_length=patch), random_inputs(B, T, H)
    past = inputs.past.clone()
    seen = torch.rand(B, T) < 0.7
    seen[:, -1] = True
    for row, length in enumerate(lengths):
        past[row, : T - length] = 1e3  # padding may hold anything
        seen[row, : T - length] = False
    padded = network(
        inputs._replace(past=past, past_seen=seen, history_length=torch.tensor(lengths)), True
    )
    for row, length in enumerate(lengths):
        parts = (None if part is None else part[row : row + 1] for part in inputs)
        one = TFTInputs(*parts)
        alone = network(
            one._replace(past=one.past[:, T - length :], past_seen=seen[row : row + 1, -length:]),
            True,
        )
        torch.testing.assert_close(padded.quantiles[row], alone.quantiles[0])
        torch.testing.assert_close(padded.attention[row, :, T - length :], alone.attention[0])
        torch.testing.assert_close(padded.past_weights[row, -length:], alone.past_weights[0])


@pytest.mark.parametrize("patch", [1, 3])
def test_asking_for_weights_changes_no_forecast(patch: int) -> None:
    network, inputs = tiny_network(patch_length=patch), random_inputs(B, T, H)
    plain, explained = network(inputs), network(inputs, return_weights=True)
    assert torch.equal(plain.quantiles, explained.quantiles)
    assert plain.attention is None
    assert explained.attention.shape == (B, H, T + H)
    assert explained.past_weights.shape == (B, T, TINY.num_past)
    assert explained.future_weights.shape == (B, H, TINY.num_future)
    assert explained.static_weights.shape == (B, 4)
    ones = torch.ones(B, H).double()
    torch.testing.assert_close(explained.attention.sum(-1), ones)
    torch.testing.assert_close(explained.future_weights.sum(-1), ones)


def test_the_forecast_and_the_shares_told_follow_what_the_naive_forecasts_rest_on() -> None:
    network, inputs = tiny_network(), random_inputs(B, T, H)
    seen = torch.ones(B, TINY.num_targets, TINY.num_naive).double()
    whole = network(inputs._replace(naive_seen=seen), return_weights=True)
    unsaid = network(inputs._replace(naive_seen=None))
    assert torch.equal(whole.quantiles, unsaid.quantiles)
    seen[1, 0, 2] = 0.5
    half = network(inputs._replace(naive_seen=seen), return_weights=True)
    odds = [told.naive_shares[..., 3] / told.naive_shares[..., 1] for told in (half, whole)]
    expected = torch.ones(B, 1, TINY.num_targets).double()
    expected[1, 0, 0] = 0.5
    torch.testing.assert_close(odds[0] / odds[1], expected.expand(-1, H, -1))
    changed = (half.quantiles != whole.quantiles).any(-1).any(1)
    assert changed.nonzero().tolist() == [[1, 0]]


@pytest.mark.parametrize("patch", [1, 3])
def test_attention_looks_at_seen_ticks_and_not_ahead(patch: int) -> None:
    network, inputs = tiny_network(patch_length=patch), random_inputs(B, T, H)
    seen = torch.ones(B, T, dtype=torch.bool)
    seen[:, 2] = False
    attention = network(inputs._replace(past_seen=seen), return_weights=True).attention
    assert attention[:, :, 2].abs().max() == 0
    ahead = torch.ones(H, H, dtype=torch.bool).triu(1)
    assert attention[:, :, T:][:, ahead].abs().max() == 0
    assert attention[:, :, T:][:, ~ahead].min() > 0


@pytest.mark.parametrize("patch", [1, 3])
def test_nothing_seen_at_all_is_still_finite(patch: int) -> None:
    network, inputs = tiny_network(patch_length=patch), random_inputs(B, T, H)
    blind = inputs._replace(
        past=torch.zeros_like(inputs.past), past_seen=torch.zeros(B, T, dtype=torch.bool)
    )
    network.train()
    network(blind).quantiles.sum().backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients and all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("patch", [1, 3])
def test_every_parameter_gets_a_gradient(patch: int) -> None:
    network = tiny_network(patch_length=patch).train()
    network(random_inputs(B, T, H)).quantiles.square().sum().backward()
    # The encoder's and decoder's biases add up in pairs, but each has its gradient.
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_under_autocast(dtype: torch.dtype) -> None:
    network = tiny_network(dtype=torch.float32).train()
    inputs = random_inputs(B, T, H, dtype=torch.float32)
    extreme = inputs._replace(past=inputs.past * 10, past_seen=torch.rand(B, T) < 0.5)
    with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
        quantiles = network(extreme).quantiles
    assert quantiles.dtype == torch.float32
    assert quantiles.isfinite().all()
    quantiles.sum().backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("patch", [1, 2])
def test_whole_network_gradient(patch: int) -> None:
    network = tiny_network(patch_length=patch)
    inputs = random_inputs(1, 3, 2)
    inputs.past.requires_grad_()
    inputs.future.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda past, future: network(inputs._replace(past=past, future=future)).quantiles,
        (inputs.past, inputs.future),
    )


def test_default_size_is_near_the_reference() -> None:
    """The reference system's one-target model has 87,080 parameters; the README states ours."""
    config = TFTConfig(
        num_past=9, num_future=6, num_targets=4, num_static_reals=4, static_cardinalities=(64, 8)
    )
    assert sum(p.numel() for p in TFT(config).parameters()) == 90_377


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 7}, "multiple"),
        ({"num_past": 0}, "num_past 0"),
        ({"dropout": 1.0}, "dropout"),
        ({"num_naive": -1}, "num_naive -1"),
        ({"patch_length": 0}, "patch_length 0"),
        ({"num_static_reals": 0, "static_cardinalities": ()}, "static input"),
    ],
)
def test_impossible_sizes_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TFTConfig(**{**TINY.__dict__, **change})


def test_imports_with_torch_alone_installed(tmp_path: Path) -> None:
    """In an environment that holds torch, what torch requires, and nothing else."""
    venv.create(tmp_path, with_pip=False)
    python = tmp_path / "bin" / "python"
    site = next((tmp_path / "lib").glob("python*/site-packages"))
    for package in required_by("torch"):
        for file in {file.parts[0] for file in importlib.metadata.files(package) or ()} - {".."}:
            source = Path(str(importlib.metadata.distribution(package).locate_file(file)))
            if source.exists() and not (site / file).exists():
                (site / file).symlink_to(source.resolve())
    code = (
        "import importlib.util as u, warnings; warnings.simplefilter('ignore');"
        "assert u.find_spec('numpy') is None and u.find_spec('safetensors') is None;"
        "import torch; from tft.model import TFT, TFTConfig, TFTInputs;"
        "c = TFTConfig(num_past=2, num_future=1, static_cardinalities=(3,), hidden_size=8);"
        "i = TFTInputs(torch.ones(1, 5, 2, 2), torch.ones(1, 3, 1, 2), torch.ones(1, 0, 2),"
        " torch.ones(1, 1, dtype=torch.long));"
        "print(tuple(TFT(c)(i).quantiles.shape))"
    )
    root = Path(__file__).parent.parent
    result = subprocess.run([python, "-c", code], cwd=root, capture_output=True, text=True)
    assert result.stdout.strip() == "(1, 3, 1, 7)", result.stderr


def required_by(package: str) -> set[str]:
    """Return a package and everything it requires here, extras aside."""
    found, todo = set(), [package]
    while todo:
        name = todo.pop()
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # required on another platform
        found.add(name)
        for requirement in requirements:
            needed = re.split(r"[^A-Za-z0-9_.-]", requirement)[0]
            if "extra ==" not in requirement and needed not in found:
                todo.append(needed)
    return found
