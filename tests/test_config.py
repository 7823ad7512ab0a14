"""Configuration keys: names, types, ranges, and what a typo is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from train.config import TrainConfig, parse_setting, read_config_file

ESTABLISHED = {
    "epochs": 20,
    "batch_size": 32,
    "gradient_clip_val": 0.1,
    "random_seed": 42,
    "checkpoints_dir": "checkpoints",
    "logs_dir": "logs",
    "auto_lr_find": False,
    "lr_monitor_interval": "epoch",
    "log_every_n_steps": 50,
    "validation_split": 0.2,
    "precision": "fp32",
    "accumulate_grad_batches": 1,
    "multi_target": True,
    "target_metrics": ("cpu_percent", "memory_percent", "disk_percent", "load_average"),
    "hidden_size": 32,
    "attention_heads": 8,
    "dropout": 0.15,
    "prediction_horizon": 96,
    "context_length": 288,
    "early_stopping_patience": 8,
}


def test_established_names_and_defaults() -> None:
    config = TrainConfig().to_dict()
    assert {key: config[key] for key in ESTABLISHED} == ESTABLISHED
    assert "learning_rate" in config


def test_every_key_is_read_somewhere() -> None:
    """A key nobody reads promises what it does not keep."""
    source = "".join(path.read_text() for path in Path(__file__).parent.parent.glob("train/*.py"))
    unread = [key for key in TrainConfig().to_dict() if f"config.{key}" not in source]
    assert unread == []


@pytest.mark.parametrize(
    ("key", "near"), [("epoch", "epochs"), ("learningrate", "learning_rate"), ("lr", "known are")]
)
def test_unknown_keys_name_the_nearest(key: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"unknown configuration key '{key}'.*{near}"):
        TrainConfig.from_dict({key: 1})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("epochs", 0, "expected 1 to"),
        ("epochs", 2.5, "expected a whole number"),
        ("epochs", "many", "expected a whole number"),
        ("epochs", True, "expected a whole number"),
        ("learning_rate", "fast", "expected a number"),
        ("learning_rate", float("nan"), "expected 1e-08 to 10"),
        ("dropout", 1.0, "expected 0.0 to 0.9"),
        ("precision", "fp8", "expected one of fp32, bf16, fp16"),
        ("device", "tpu", "expected one of auto, cpu, cuda"),
        ("multi_target", "yes", "expected true or false"),
        ("epochs", None, "epochs and max_minutes are both none"),
        ("target_metrics", [], "name at least one"),
        ("target_metrics", [1], "expected a list, each a text"),
        ("precision", [1, 2], "expected one of fp32, bf16, fp16"),
        ("quantiles", [0.9, 0.1], "must ascend"),
        ("quantiles", [0.25, 0.5, 0.75], "expected 0.1 among them"),
        ("attention_heads", 5, "multiple of attention_heads, 5"),
        ("min_context_length", 300, "at most context_length, 288"),
        ("validation_split", 0.0, "expected 0.01 to 0.9"),
    ],
)
def test_bad_values_say_what_was_expected(key: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig.from_dict({key: value})


@pytest.mark.parametrize(
    ("alias", "name"), [("32-true", "fp32"), ("bf16-mixed", "bf16"), ("16-mixed", "fp16")]
)
def test_precision_aliases(alias: str, name: str) -> None:
    assert TrainConfig.from_dict({"precision": alias}).precision == name


def test_round_trip_through_json() -> None:
    config = TrainConfig(max_minutes=1, windows_per_epoch=None, target_metrics=("a",))
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("pair", "key", "value"),
    [
        ("dropout=0.2", "dropout", 0.2),
        ("epochs = 3", "epochs", 3),
        ("auto_lr_find=true", "auto_lr_find", True),
        ("precision=bf16", "precision", "bf16"),
        ("windows_per_epoch=none", "windows_per_epoch", "none"),
        ("target_metrics=a,b", "target_metrics", ("a", "b")),
        ('target_metrics=["a"]', "target_metrics", ["a"]),
        ("quantiles=0.1,0.5,0.9", "quantiles", [0.1, 0.5, 0.9]),
    ],
)
def test_settings(pair: str, key: str, value: Any) -> None:
    assert parse_setting(pair) == (key, value)


def test_none_switches_a_limit_off() -> None:
    assert TrainConfig.from_dict(dict([parse_setting("windows_per_epoch=none")])) == TrainConfig(
        windows_per_epoch=None
    )


@pytest.mark.parametrize("pair", ["dropout", "=3", "dropout="])
def test_settings_of_no_form_are_refused(pair: str) -> None:
    with pytest.raises(ValueError, match="expected key=value"):
        parse_setting(pair)


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("epochs = = 3")
    with pytest.raises(ValueError, match="bad.toml: cannot be read as TOML"):
        read_config_file(path)
