"""Every command a person types, with good and with bad input."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from cli import PROFILES, cli, read_for
from data.synthetic import FleetSpec
from tests.builders import SMALL_TRAINING, small_table

ROOT = Path(__file__).parent.parent
SETTINGS = [
    part
    for key, value in SMALL_TRAINING.items()
    if key not in ("epochs", "batch_size", "target_metrics")
    for part in ("--set", f"{key}={value}")
]
TRAIN = ["--epochs", "1", "--batch-size", "16", *SETTINGS]
TARGET = ["--target", "cpu_percent,load_average"]


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table and a run trained on it by the command."""
    folder = tmp_path_factory.mktemp("made")
    small_table().to_csv(folder / "fleet.csv", index=False)
    result = invoke("train", "--data", folder / "fleet.csv", "--run-dir", folder / "run", *TARGET,
                    *TRAIN)  # fmt: skip
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-1] == str(folder / "run")
    return folder


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path


# --- what works ---------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", ["--num-web-api", "--num_web_api"])
def test_generate(here: Path, spelling: str) -> None:
    rest = [f"--num-{name.replace('_', '-')}=0" for name in PROFILES if name != "web_api"]
    result = invoke("generate", "--hours", "24", "--out-dir", here / "made", spelling, "2", *rest)
    assert result.exit_code == 0, result.output
    table = pd.read_parquet(result.stdout.splitlines()[-1])
    assert set(table.profile) == {"web_api"} and table.server_name.nunique() == 2
    facts = json.loads((here / "made" / "generation.json").read_text())
    assert len(table) + sum(facts["ticks_missing"].values()) == 2 * 24 * 12


def test_generates_the_default_fleet_of_the_library() -> None:
    """The counts stand in cli.py too, so that --help need not import the generator."""
    assert FleetSpec().counts == PROFILES


def test_serve_reads_a_table_as_the_runs_own_was_read(made: Path) -> None:
    fleet = read_for(made / "run", made / "fleet.csv")
    assert list(fleet.servers) == sorted(small_table().server_name.unique())


def test_forecast_and_evaluate(made: Path, here: Path) -> None:
    result = invoke("forecast", made / "run", "--data", made / "fleet.csv", "--out", "f.parquet")
    assert result.exit_code == 0, result.output
    table = pd.read_parquet("f.parquet")
    assert list(table) == [
        "server_name", "origin", "timestamp", "metric", "q0.1", "q0.5", "q0.9",
    ]  # fmt: skip
    assert len(table) == 3 * 6 * 2
    assert (table.timestamp - table.origin).max() == pd.Timedelta(minutes=25)

    result = invoke("evaluate", made / "run", "--out-dir", "report", "--windows", "64")
    assert result.exit_code == 0, result.output
    evaluation = json.loads(Path("report/evaluation.json").read_text())
    assert [row["name"] for row in evaluation["forecasters"]][0] == "tft"
    assert Path("report/forecasts.png").stat().st_size > 10_000
    # The page is the last line; it has the part that only a run directory can tell.
    page = Path(result.stdout.splitlines()[-1])
    assert page == Path("report/report.html") and "convergence" in page.read_text()
    assert len(result.stdout.splitlines()) <= 40


def test_a_model_folder_alone_is_evaluated_without_what_nobody_knows(
    made: Path, here: Path
) -> None:
    shutil.copytree(made / "run" / "model", "model")
    result = invoke("evaluate", "model", "--data", made / "fleet.csv", "--windows", "16")
    assert result.exit_code == 0, result.output
    assert "maturity:     unknown: no finished run around the model" in result.stdout
    assert "convergence" not in Path("model/evaluation/report.html").read_text()


def test_forecast_from_origins(made: Path, here: Path) -> None:
    Path("o.csv").write_text("server_name,origin\nserver1,2026-01-05T20:00:00Z\n")
    result = invoke("forecast", made / "run", "--data", made / "fleet.csv", "--origins", "o.csv",
                    "--out", "f.csv", "--quantiles", "0.02,0.5")  # fmt: skip
    assert result.exit_code == 0, result.output
    table = pd.read_csv("f.csv")
    assert set(table.server_name) == {"server1"} and set(table.origin) == {"2026-01-05T20:00:00Z"}
    assert list(table)[4:] == ["q0.02", "q0.5"]


@pytest.mark.parametrize("parts", [2, 5])
@pytest.mark.parametrize("given", [False, True], ids=["latest origins", "a file of origins"])
def test_the_parts_of_a_fleet_together_are_the_whole(
    made: Path, here: Path, parts: int, given: bool
) -> None:
    """With a cold start, and with parts that hold no server."""
    table = pd.read_csv(made / "fleet.csv")
    young = table[table.server_name == "server2"].tail(3).assign(server_name="young")
    pd.concat([table, young]).to_csv("t.csv", index=False)
    origins = "server0,2026-01-06T01:00:00Z\nserver1,2026-01-05T20:00:00Z\n"
    origins += "young,2026-01-06T06:00:00Z\nserver0,2026-01-06T02:00:00Z\n"
    Path("origins.csv").write_text("server_name,origin\n" + origins)
    command = ["forecast", made / "run", "--data", "t.csv"]
    command += ["--origins", "origins.csv"] if given else []
    whole = invoke(*command, "--out", "whole.csv")
    pieces = [
        invoke(*command, "--out", f"part{i}.csv", "--shard", f"{i}/{parts}")
        for i in range(1, parts + 1)
    ]
    assert [result.exit_code for result in (whole, *pieces)] == [0] * (1 + parts)
    keys = ["server_name", "origin", "timestamp", "metric"]
    expected, *found = (
        pd.read_csv(file) for file in ("whole.csv", *(f"part{i + 1}.csv" for i in range(parts)))
    )
    assert 0 < min(map(len, filter(len, found))) < len(expected)
    pd.testing.assert_frame_equal(
        pd.concat(part for part in found if len(part)).sort_values(keys, ignore_index=True),
        expected.sort_values(keys, ignore_index=True),
        rtol=1e-5,  # a batch of other windows is rounded otherwise
    )
    said = "".join(result.stderr for result in pieces)
    assert said.count("young: cold start") == whole.stderr.count("young: cold start") == 1


def test_an_unseen_server_and_a_missing_observed_column_are_forecast(
    made: Path, here: Path
) -> None:
    table = small_table(servers=1).drop(columns=["swap_percent", "profile"])
    table.assign(server_name="new").to_csv("new.csv", index=False)
    result = invoke("forecast", made / "run", "--data", "new.csv", "--out", "f.csv")
    assert result.exit_code == 0, result.output
    assert pd.read_csv("f.csv")["q0.5"].notna().all()


def test_other_columns_are_mapped_by_flags_and_by_file(here: Path) -> None:
    table = small_table(servers=1).rename(columns={"timestamp": "when", "server_name": "host"})
    table.to_csv("t.csv", index=False)
    Path("c.toml").write_text(
        'target_metrics = ["cpu_percent"]\nepochs = 1\n[data]\ntimestamp = "when"\n'
        'server_name = "host"\nobserved = ["load_average"]\n'
    )
    result = invoke("train", "--data", "t.csv", "--config", "c.toml", "--run-dir", "a", *SETTINGS)
    assert result.exit_code == 0, result.output
    flags = ["--timestamp-column", "when", "--server-column", "host", "--observed", "load_average"]
    result = invoke("train", "--data", "t.csv", "--target", "cpu_percent", "--run-dir", "b",
                    *flags, *TRAIN)  # fmt: skip
    assert result.exit_code == 0, result.output
    one, two = (json.loads(Path(run, "config.json").read_text()) for run in "ab")
    assert one["data"] == two["data"]
    # The run remembers its columns: no flag is needed to use it.
    result = invoke("forecast", "a", "--data", "t.csv", "--out", "f.csv")
    assert result.exit_code == 0, result.output


def test_train_without_data_uses_the_training_folder(here: Path) -> None:
    Path("training").mkdir()
    small_table().to_parquet("training/part.parquet")
    result = invoke("train", *TARGET, *TRAIN)
    assert result.exit_code == 0, result.output
    run = Path(result.stdout.splitlines()[-1])
    assert run.parent == Path("runs") and (run / "model").is_dir()


def test_train_without_anything_generates_the_built_in_fleet(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.synthetic.FleetSpec", lambda: FleetSpec(hours=40))
    result = invoke("train", *TRAIN)
    assert result.exit_code == 0, result.output
    assert Path("training/fleet.parquet").exists()
    info = json.loads(Path(result.stdout.splitlines()[-1], "training_info.json").read_text())
    assert info["num_servers"] == 20


def test_lr_find(made: Path, here: Path) -> None:
    options = [*TARGET, "--batch-size", "16", *SETTINGS]
    result = invoke("lr-find", "--data", made / "fleet.csv", *options)
    assert result.exit_code == 0, result.output
    assert 1e-5 < float(result.stdout.splitlines()[-1]) < 1
    assert Path("lr-find/lr_find.png").stat().st_size > 10_000
    assert len(Path("lr-find/lr_find.csv").read_text().splitlines()) > 20


def test_results_are_on_stdout_and_all_else_on_stderr(made: Path, here: Path) -> None:
    """As a shell sees it: `run=$(python cli.py train ...)` must work."""
    command = [sys.executable, ROOT / "cli.py", "train", "--data", made / "fleet.csv", *TARGET,
               *TRAIN, "--run-dir", "r"]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True, cwd=here)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "r\n"
    assert "epoch 1/1" in result.stderr and "best" in result.stderr


@pytest.mark.parametrize(
    "command", [[], ["train"], ["generate"], ["forecast"], ["evaluate"], ["lr-find"], ["export"]]
)
def test_help(command: list[str]) -> None:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert "Usage:" in result.output


# --- what does not: one clear message, exit 2, nothing written ---------------------------------

GOOD = "timestamp,server_name,cpu_percent,load_average\n2026-01-05T00:00:00Z,a,1,2\n"
FILES = {
    "empty.csv": "",
    "notes.txt": "hello",
    "short.csv": GOOD,
    "notime.csv": GOOD.replace("timestamp", "when"),
    "twice.csv": GOOD.replace("load_average", "cpu_percent"),
    "semicolon.csv": GOOD.replace(",", ";"),
    "badrows.csv": GOOD.replace("2026-01-05T00:00:00Z", "soon"),
    "corrupt.parquet": "PAR1 not really",
    "bad.toml": "epochs = = 1",
    "typo.toml": "epoch = 1",
    "typodata.toml": '[data]\ntimestampp = "when"',
    "both.toml": 'target_metrics = ["a"]\n[data]\ntargets = ["b"]',
    "nobody.csv": "server_name,origin\nnobody,2026-01-05T20:00:00Z\n",
    "never.csv": "server_name,origin\nserver1,never\n",
    "before.csv": "server_name,origin\nserver1,2020-01-01\n",
    "headless.csv": "a,b\n1,2\n",
    "hollow/readme.md": "nothing here",
    "mixed/a.csv": GOOD,
    "mixed/b.parquet": "x",
    "full/keep.txt": "mine",
}
DATA = ["--data", "{made}/fleet.csv"]
OUT = ["--out", "o.csv"]
BAD = [
    (["train", "--data", "none.csv"], "none.csv"),
    (["train", "--data", "notes.txt"], "notes.txt is not a table"),
    (["train", "--data", "empty.csv"], "empty.csv is empty"),
    (["train", "--data", "hollow"], "hollow holds no table"),
    (["train", "--data", "mixed"], "both CSV and Parquet"),
    (["train", "--data", "corrupt.parquet"], "corrupt.parquet"),
    (["train", "--data", "twice.csv"], "'cpu_percent' twice"),
    (["train", "--data", "semicolon.csv"], "commas between fields"),
    (["train", "--data", "notime.csv"], "no column 'timestamp'"),
    (["train", "--data", "badrows.csv", *TARGET], "line 2"),
    (["train", "--data", "short.csv", *TARGET], "ticks are needed"),
    (["train", *DATA], "no column 'memory_percent'"),
    (["train", *DATA, "--target", "cpu"], "cpu_percent"),
    (["train", *DATA, "--target", ","], "target_metrics is empty"),
    (["train", *DATA, *TARGET, "--static", "colour"], "no column 'colour'"),
    (["train", *DATA, *TARGET, "--bounds", "cpu_percent=0"], "expected name=low:high"),
    (["train", *DATA, *TARGET, "--bounds", "cpu=0:1"], "'cpu'"),
    (["train", *DATA, *TARGET, "--bounds", "cpu_percent=9:1"], "lower bound 9"),
    (["train", *DATA, *TARGET, "--timezone", "Mars/Base"], "Mars/Base"),
    (["train", *DATA, *TARGET, "--epochs", "0"], "epochs = 0: expected 1"),
    (["train", *DATA, *TARGET, "--epochs", "ten"], "'ten' is not a valid integer"),
    (["train", *DATA, *TARGET, "--precision", "fp8"], "expected one of fp32, bf16, fp16"),
    (["train", *DATA, *TARGET, "--device", "tpu"], "expected one of auto, cpu, cuda"),
    (["train", *DATA, *TARGET, "--max-minutes", "0"], "max_minutes = 0.0: expected"),
    (["train", *DATA, *TARGET, "--set", "epoch=1"], "did you mean epochs?"),
    (["train", *DATA, *TARGET, "--set", "dropout"], "expected key=value"),
    (["train", *DATA, *TARGET, "--set", "dropout=lots"], "dropout = 'lots': expected a number"),
    (["train", *DATA, *TARGET, "--set", "attention_heads=5"], "multiple of attention_heads"),
    (["train", *DATA, *TARGET, "--config", "none.toml"], "none.toml"),
    (["train", *DATA, *TARGET, "--config", "bad.toml"], "bad.toml"),
    (["train", *DATA, *TARGET, "--config", "typo.toml"], "did you mean epochs?"),
    (["train", *DATA, *TARGET, "--config", "typodata.toml"], "'timestampp'"),
    (["train", *DATA, "--config", "both.toml"], "keep one of"),
    (["train", *DATA, *TARGET, "--run-dir", "full"], "full is not empty"),
    (["train", *DATA, *TARGET, "--epoch", "1"], "No such option"),
    (["train", *DATA, *TARGET, "--resume"], "--resume needs --run-dir"),
    (
        ["train", "--run-dir", "{made}/run", "--resume", "--set", "dropout=0.3"],
        "begun with dropout",
    ),
    (["generate", "--hours", "0", "--out-dir", "g"], "0 is not in the range"),
    (["generate", "--format", "xlsx", "--out-dir", "g"], "'xlsx' is not one of"),
    (["generate", "--hours", "24", "--out-dir", "notes.txt"], "notes.txt"),
    (["generate", "--num-web-api", "-1", "--out-dir", "g"], "-1 is not in the range"),
    (["forecast", "nowhere", *DATA, *OUT], "nowhere"),
    (["forecast", "full", *DATA, *OUT], "no forecaster.json"),
    (["forecast", "{made}/run", "--data", "short.csv", "--out", "o.xlsx"], "ending in .parquet"),
    (["forecast", "{made}/run", *DATA, "--out", "no/o.csv"], "does not exist"),
    (["forecast", "{made}/run", *DATA, *OUT, "--quantiles", "0.3"], "0.3 was not trained"),
    (["forecast", "{made}/run", *DATA, *OUT, "--quantiles", "half"], "between 0 and 1"),
    (["forecast", "{made}/run", *DATA, *OUT, "--shard", "0/2"], "shard '0/2': expected i/N"),
    (["forecast", "{made}/run", *DATA, *OUT, "--origins", "nobody.csv"], "line 2, server_name"),
    (["forecast", "{made}/run", *DATA, *OUT, "--origins", "never.csv"], "line 2, origin 'never'"),
    (["forecast", "{made}/run", *DATA, *OUT, "--origins", "before.csv"], "line 2, origin"),
    (["forecast", "{made}/run", *DATA, *OUT, "--origins", "headless.csv"], "no column"),
    (["forecast", "{made}/run", "--data", "notime.csv", *OUT], "no column 'timestamp'"),
    (["forecast", "{made}/run", *DATA], "Missing option '--out'"),
    (["forecast", "{made}/run", *DATA, "--out", "full"], "full"),
    (["forecast", "{made}/run", "--data", "short.csv", "--out", "short.csv"], "short.csv"),
    (["forecast", "{made}/run", *DATA, *OUT, "--device", "tpu"], "expected one of auto, cpu, cuda"),
    (["forecast", "short.csv", *DATA, *OUT], "short.csv is a file; expected a run directory"),
    (["evaluate", "{made}/run", "--out-dir", "short.csv"], "short.csv is a file; name a folder"),
    (["train", *DATA, *TARGET, "--set", "logs_dir=../x"], "expected a folder's name in the run"),
    (["evaluate", "nowhere"], "nowhere"),
    (["evaluate", "{made}/run", "--data", "short.csv"], "no window to evaluate"),
    (["export", "{made}/run", "--format", "torch", "--out", "o.onnx"], "ending in .pt2"),
    (["export", "{made}/run", "--format", "onnx", "--out", "no/o.onnx"], "does not exist"),
    (["export", "{made}/run", "--format", "pickle", "--out", "o.pkl"], "'pickle' is not one of"),
    (["export", "full", "--format", "torch", "--out", "o.pt2"], "no forecaster.json"),
    (["lr-find", *DATA, *TARGET, "--set", "lr=1"], "unknown configuration key 'lr'"),
    (["cross-validate", *DATA, *TARGET, "--folds", "1"], "1 is not in the range"),
    (["cross-validate", *DATA, *TARGET, "--folds", "2"], "2 folds cut the table's 360 ticks"),
    (["cross-validate", *DATA, *TARGET, "--folds", "2", "--resume"], "--resume needs --run-dir"),
    (["cross-validate", *DATA, "--folds", "2", "--run-dir", "full"], "full is not empty"),
]


def tree(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.mark.parametrize(("command", "message"), BAD, ids=[" ".join(c) for c, _ in BAD])
def test_bad_input(made: Path, here: Path, command: list[str], message: str) -> None:
    for name, text in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    before, before_made = tree(here), tree(made)
    result = invoke(*(part.format(made=made) for part in command))
    assert result.exit_code == 2, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1 and result.stderr.splitlines()[-1] == errors[0]
    assert message in errors[0]
    assert "Traceback" not in result.output
    assert isinstance(result.exception, SystemExit)
    assert (tree(here), tree(made)) == (before, before_made)


def test_a_cell_that_is_no_number_is_an_error_only_when_strict(here: Path) -> None:
    table = small_table(servers=1).astype({"cpu_percent": object})
    table.loc[5, "cpu_percent"] = "n.a.?"
    table.to_csv("t.csv", index=False)
    command = ["train", "--data", "t.csv", *TARGET, *TRAIN, "--run-dir", "r"]
    result = invoke(*command, "--strict")
    assert result.exit_code == 2
    assert "t.csv, line 7, column 'cpu_percent': 'n.a.?'" in result.stderr
    assert not Path("r").exists()
    assert invoke(*command).exit_code == 0


def test_a_gpu_that_is_not_there(made: Path, here: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    result = invoke("train", "--data", made / "fleet.csv", *TARGET, "--device", "cuda")
    assert result.exit_code == 2
    assert "PyTorch sees no GPU here; use cpu, or auto" in result.stderr


def test_the_model_folder_of_a_run_stands_for_the_run(made: Path, here: Path) -> None:
    """It knows the run's columns and time zone: without them every tick would move."""
    table = small_table()
    table["timestamp"] = table["timestamp"].dt.tz_localize(None)
    table.to_csv("naive.csv", index=False)
    zone = ["--timezone", "Asia/Tokyo"]
    result = invoke("train", "--data", "naive.csv", "--run-dir", "r", *TARGET, *TRAIN, *zone)
    assert result.exit_code == 0, result.output
    for run in ("r", "r/model"):
        result = invoke("forecast", run, "--data", "naive.csv", "--out", f"{run[-1]}.csv")
        assert result.exit_code == 0, result.output
    one, two = (Path(f"{name}.csv").read_text() for name in "rl")
    assert one == two
    assert "2026-01-05T21:00:00Z" in one  # 6:00 of the second day in Tokyo


@pytest.mark.parametrize("damage", ['{"train": {}, "data": {}}', "null", "{", '{"train": 1}'])
def test_a_damaged_config(made: Path, here: Path, damage: str) -> None:
    shutil.copytree(made / "run", here / "run")
    (here / "run" / "config.json").write_text(damage)
    result = invoke("forecast", "run", "--data", made / "fleet.csv", "--out", "f.csv")
    assert result.exit_code == 2
    assert "config.json" in result.stderr and "Traceback" not in result.output


def test_resume_goes_on_with_what_the_run_was_begun_with(made: Path, here: Path) -> None:
    shutil.copytree(made / "run", here / "run")
    result = invoke("train", "--run-dir", "run", "--resume", "--epochs", "2")
    assert result.exit_code == 0, result.output
    assert "resuming at epoch 2" in result.stderr
    lines = (here / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]


def test_resume_begins_what_was_not_begun(made: Path, here: Path) -> None:
    """So that one command can stand in a script that may be killed at any instant."""
    command = ["train", "--data", made / "fleet.csv", "--run-dir", "r", "--resume", *TARGET, *TRAIN]
    result = invoke(*command)
    assert result.exit_code == 0, result.output
    assert "no checkpoint yet" in result.stderr


def test_a_damaged_forecaster(made: Path, here: Path) -> None:
    shutil.copytree(made / "run", here / "run")
    weights = next((here / "run" / "model").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    result = invoke("forecast", "run", "--data", made / "fleet.csv", "--out", "f.csv")
    assert result.exit_code == 2
    assert "damaged" in result.stderr
