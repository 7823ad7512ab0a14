"""A forecaster as one file: equal to the bundle, whole or not there, and free of this code."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.export import ExportedProgram

import benchmarks.export as benchmark
import tft.export
from benchmarks import inference
from cli import cli
from data.forecasts import latest_origins
from data.windows import WindowStore
from tests.builders import SCHEMA, random_inputs, small_fleet, tiny_forecaster, tiny_network
from tft.batch import WindowBatch
from tft.bundle import load_forecaster, save_forecaster
from tft.export import (
    ENDINGS,
    INPUTS,
    TOLERANCE,
    BranchlessTFT,
    Forecast,
    describe,
    export_forecaster,
    inputs_of,
    largest_difference,
    load_onnx,
    load_torch,
    random_windows,
    to_program,
)
from tft.forecaster import Forecaster

ROOT = Path(__file__).parent.parent
T = SCHEMA.context_length
MISSING = [name for name in ("onnxruntime", "onnxscript") if not importlib.util.find_spec(name)]
needs_onnx = pytest.mark.skipif(
    bool(MISSING), reason=f"no {' and no '.join(MISSING)}: pip install -e '.[export]'"
)
FORMATS = ["torch", pytest.param("onnx", marks=needs_onnx)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    forecaster = tiny_forecaster()
    gaps = SCHEMA.prediction_horizon, len(SCHEMA.targets), len(SCHEMA.quantiles) - 1
    forecaster.calibration = 0.5 + torch.rand(gaps)
    save_forecaster(forecaster, folder)
    return folder


@pytest.fixture(scope="module")
def program(bundle: Path) -> ExportedProgram:
    """Return the graph that is in either file: recording it takes seconds."""
    return to_program(load_forecaster(bundle))


@pytest.fixture(scope="module")
def file(
    request: pytest.FixtureRequest,
    bundle: Path,
    program: ExportedProgram,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Return the file that the command writes of a bundle."""
    path = tmp_path_factory.mktemp("exported") / f"model{ENDINGS[request.param]}"
    command = ["export", str(bundle), "--format", request.param, "--out", str(path)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tft.export, "to_program", lambda _: program)
        result = CliRunner().invoke(cli, command)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{path}\n" and list(path.parent.iterdir()) == [path]
    assert "of a window's spread apart" in result.stderr
    return path


@pytest.fixture(scope="module")
def exported(file: Path) -> Forecast:
    return (load_torch if file.suffix == ".pt2" else load_onnx)(file)


def windows_of_a_fleet(forecaster: Forecaster) -> WindowBatch:
    """Return every server's last window; one server began 3 ticks ago, one saw one metric."""
    fleet = small_fleet((60, 80, 3, 50))
    fleet.values[::7] = torch.nan
    fleet.series(3)[:, 0] = torch.nan
    store = WindowStore(fleet, SCHEMA, known_servers=forecaster.facts.servers)
    return store.gather(*latest_origins(fleet, SCHEMA))


def not_seen_at_all(forecaster: Forecaster) -> WindowBatch:
    """Return windows of which one holds nothing, and one a number that is none."""
    windows = random_windows(forecaster, 3, seed=2)
    windows.past[0], windows.earlier[0] = torch.nan, torch.nan
    windows.past[1, -1, 0] = torch.inf
    return windows


def far_from_zero(forecaster: Forecaster) -> WindowBatch:
    """Return windows of which a metric's level is thousands of its spreads: a counter's."""
    windows = random_windows(forecaster, 5, seed=3)
    windows.past[..., 2] += 4000 * forecaster.normaliser.typical_spread[2]
    return windows


@pytest.mark.parametrize("file", FORMATS, indirect=True)
def test_equal_to_the_bundle(bundle: Path, exported: Forecast) -> None:
    """For any number of windows, short ones and missing values, to 1e-4 of a window's spread."""
    forecaster = load_forecaster(bundle)
    for windows in (
        *(random_windows(forecaster, batch, seed=9) for batch in (1, 2, 13)),
        random_windows(forecaster, 1, seed=9)._replace(history_length=torch.tensor([T])),
        windows_of_a_fleet(forecaster),
        not_seen_at_all(forecaster),
        far_from_zero(forecaster),
    ):
        quantiles = exported(windows)
        assert quantiles.isfinite().all() and (quantiles.diff(dim=-1) >= 0).all()
        assert largest_difference(forecaster, exported, windows) < TOLERANCE
    assert windows_of_a_fleet(forecaster).history_length.min() == 3


@pytest.mark.parametrize("file", FORMATS, indirect=True)
def test_the_history_length_is_read(bundle: Path, exported: Forecast) -> None:
    """A gap at the beginning is no late beginning: the encoder steps through it."""
    forecaster = load_forecaster(bundle)
    windows = random_windows(forecaster, 2, seed=3)
    windows.past[:, : T - 5] = torch.nan
    begun, late = (
        windows._replace(history_length=torch.tensor(length)) for length in ([T, T], [T, 5])
    )
    assert torch.equal(exported(begun)[0], exported(late)[0])
    assert not torch.allclose(exported(begun)[1], exported(late)[1])


@pytest.mark.parametrize("file", FORMATS, indirect=True)
def test_a_file_tells_nothing_of_the_machine_it_was_made_on(file: Path) -> None:
    content = file.read_bytes()
    for path in (ROOT, Path(sys.prefix), Path(torch.__file__).parent):
        assert str(path).encode() not in content


READ = {
    ".pt2": """
about = {"forecaster.json": ""}
forecast = torch.export.load(file, extra_files=about).module()
quantiles = forecast(*(inputs[name] for name in names))
about = about["forecaster.json"]
""",
    ".onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(file)
(quantiles,) = session.run(["quantiles"], {name: inputs[name].numpy() for name in names})
about = session.get_modelmeta().custom_metadata_map["forecaster.json"]
""",
}


@pytest.mark.parametrize("file", FORMATS, indirect=True)
def test_a_program_without_this_code_forecasts_as_documented(
    bundle: Path, file: Path, tmp_path: Path
) -> None:
    forecaster = load_forecaster(bundle)
    windows = random_windows(forecaster, 4, seed=5)
    torch.save(dict(zip(INPUTS, inputs_of(windows), strict=True)), tmp_path / "inputs")
    code = f"""
import json, sys, torch
file, inputs = {str(file)!r}, torch.load("inputs")
names = {INPUTS!r}
{READ[file.suffix]}
assert not {{"tft", "data", "report", "train"}} & set(sys.modules)
json.dump({{"about": json.loads(about), "quantiles": quantiles.tolist()}}, open("out", "w"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    out = json.loads((tmp_path / "out").read_text())
    found = torch.tensor(out["quantiles"])
    assert largest_difference(forecaster, lambda _: found, windows) < TOLERANCE
    assert out["about"] == json.loads(json.dumps(describe(forecaster)))
    manifest = json.loads((bundle / "forecaster.json").read_text())
    assert out["about"]["schema"] == manifest["schema"]
    assert out["about"]["weights_sha256"] == manifest["weights_sha256"]
    for name, tensor in zip(INPUTS, inputs_of(windows), strict=True):
        told = out["about"]["inputs"][name]
        assert told["shape"] == ["batch", *tensor.shape[1:]]
        assert f"torch.{told['dtype']}" == str(tensor.dtype)
    assert out["about"]["outputs"]["quantiles"]["shape"] == ["batch", *found.shape[1:]]


@settings(max_examples=40, deadline=None)
@given(data=st.data(), batch=st.integers(1, 5), context=st.integers(1, 12))
def test_the_branchless_network_is_the_same_function(
    data: st.DataObject, batch: int, context: int
) -> None:
    """In double precision to its rounding, whatever the lengths and masks."""
    seed = data.draw(st.integers(0, 1000))
    length = torch.tensor(data.draw(st.lists(st.integers(1, context), min_size=batch,
                                             max_size=batch)))  # fmt: skip
    network = tiny_network(seed, patch_length=data.draw(st.integers(1, 3)))
    begun = torch.arange(context) >= (context - length).unsqueeze(1)
    seen = begun & (torch.rand(batch, context) < 0.7)
    inputs = random_inputs(batch, context, 4, seed)._replace(past_seen=seen, history_length=length)
    found = BranchlessTFT.of(network)(inputs).quantiles
    torch.testing.assert_close(found, network(inputs).quantiles, rtol=1e-11, atol=1e-11)


def test_exporting_leaves_the_forecaster_and_random_numbers_alone(tmp_path: Path) -> None:
    forecaster = tiny_forecaster()
    before = {name: tensor.clone() for name, tensor in forecaster.state_dict().items()}
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    BranchlessTFT.of(forecaster.network)
    random_windows(forecaster, 2, seed=0)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(before[name], t) for name, t in forecaster.state_dict().items())
    assert all(parameter.requires_grad for parameter in forecaster.parameters())


def test_a_file_that_would_forecast_otherwise_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.pt2"
    path.write_text("old")
    forecaster = tiny_forecaster()
    monkeypatch.setattr(tft.export, "to_program", lambda _: None)
    monkeypatch.setattr(tft.export, "_torch_file", lambda *_: b"new")
    for wrong in (1.0, torch.nan):

        def loaded(_: bytes, wrong: float = wrong) -> Forecast:
            """Forecast one window as the forecaster does, several otherwise."""
            return lambda w: forecaster.forecast(w) + (wrong if len(w.past) > 1 else 0.0)

        monkeypatch.setattr(tft.export, "load_torch", loaded)
        with pytest.raises(ValueError, match=r"model.pt2: not written, .* differ by .* spreads"):
            export_forecaster(forecaster, "torch", path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_missing_library_is_named_with_the_remedy(
    tmp_path: Path, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    command = ["export", str(bundle), "--format", "onnx", "--out", str(tmp_path / "m.onnx")]
    result = CliRunner().invoke(cli, command)
    assert result.exit_code == 2 and list(tmp_path.iterdir()) == []
    assert "pip install 'fleet-tft[export]'" in result.stderr.splitlines()[-1]


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="format 'pickle': expected one of torch, onnx"):
        export_forecaster(tiny_forecaster(), "pickle", tmp_path / "m.pkl")


def test_the_benchmark_measures_every_form_on_the_same_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "SCHEMA", replace(SCHEMA, static_reals=()))
    seen: dict[str, list[torch.Tensor]] = {"bundle": [], "other": []}

    def forms(forecaster: Forecaster) -> tuple[dict[str, Forecast], dict[str, int]]:
        def forecast(windows: WindowBatch, name: str) -> torch.Tensor:
            seen[name].append(windows.past)
            return forecaster.forecast(windows)

        return {name: partial(forecast, name=name) for name in seen}, {"bytes": 7}

    monkeypatch.setattr(benchmark, "exported_forms", forms)
    monkeypatch.setattr(benchmark, "version", lambda name: "1.0")
    record = tmp_path / "results" / "export.json"
    command = ["--windows", "3,1", "--repeats", "2", "--json", str(record)]
    result = CliRunner().invoke(benchmark.export, command)
    assert result.exit_code == 0, result.output
    content = json.loads(record.read_text())
    assert content["files"] == {"bytes": 7} and content["with"]["onnxruntime"] == "1.0"
    rows = content["forecasts"]
    assert [(row["windows"], row["form"]) for row in rows] == [
        (size, form) for size in (1, 3) for form in ("bundle", "other")
    ]
    for row in rows:
        assert 0 < row["median_seconds"] <= row["worst_seconds"] and row["repeats"] == 2
        assert row["spreads_apart"] == 0.0
    for one, other in zip(*seen.values(), strict=True):
        assert one is other
    assert [len(past) for past in seen["other"]] == [1, 1, 1, 3, 3, 3]
    assert len({len(line) for line in result.stdout.splitlines()}) == 1, "columns are aligned"


@pytest.mark.parametrize("file", FORMATS, indirect=True)
def test_equal_values_are_weighted_alike(bundle: Path, exported: Forecast) -> None:
    """What followed moments like now may be equal; then their order decides which weighs more."""
    forecaster = load_forecaster(bundle)
    windows = random_windows(forecaster, 64, seed=3)
    coarse = windows._replace(past=windows.past.round(), earlier=windows.earlier.round())
    assert largest_difference(forecaster, exported, coarse) < TOLERANCE
