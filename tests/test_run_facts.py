"""A run's own files tell what a report needs, older ones less, damaged ones an error."""

import json
from pathlib import Path
from typing import Any

import pytest

from report.run_facts import read_run_facts
from tests.reports import make_run

INFO: dict[str, Any] = {
    "epochs": 2, "data_hours": 240.0, "trained_hours": 192.0, "num_servers": 3,
    "validated_from": "2026-01-09T00:00:00+00:00", "validated_until": "2026-01-11T00:00:00+00:00",
    "quantile_loss": 0.2, "loss_unit": "spreads", "training_time_hours": 0.1,
    "convergence": {"best_epoch": 2, "first_val_loss": 0.4, "out_of_time": False},
    "early_stopping": {"stopped_early": False}, "validation_servers": ["new-1"],
    "windows_per_epoch": 96, "model_parameters": 90, "precision": "fp32", "random_seed": 7,
    "peak_memory_mb": 500.0,
}  # fmt: skip
LINE = {
    "epoch": 1, "train_loss": None, "val_loss": 0.3, "learning_rate": 0.01, "time_seconds": 2.0,
    "windows": 96, "windows_per_second": 50.0, "gpu_memory_mb": 0.0,
}  # fmt: skip


def write(folder: Path, info: dict[str, Any], lines: str) -> Path:
    (folder / "training_info.json").write_text(json.dumps(info))
    (folder / "metrics.jsonl").write_text(lines)
    return folder


def test_facts_are_those_of_the_files(tmp_path: Path) -> None:
    epochs = ({"epoch": 1}, {"epoch": 2, "windows": 95})  # the clock cut the second one short
    lines = "".join(json.dumps(LINE | epoch) + "\n" for epoch in epochs)
    facts = read_run_facts(write(tmp_path, INFO, lines))
    assert facts is not None
    assert (facts.data_days, facts.trained_days, facts.seed) == (10.0, 8.0, 7)
    assert (facts.best_epoch, facts.first_loss, facts.best_loss) == (2, 0.4, 0.2)
    assert [epoch.number for epoch in facts.course] == [1, 2] and facts.whole_epochs == 1
    assert facts.course[0].train_loss is None  # a loss that was not finite
    part = facts.validation_part(3600, None)
    assert part is not None and part.servers is None
    assert (part.end - part.begin, part.begin * 3600) == (48, 1_767_916_800)
    other = facts.validation_part(3600, ("web-1",))
    assert other is not None and other.servers == {"web-1", "new-1"}


def test_a_run_of_an_older_version_does_not_tell_what_chose_its_epoch(tmp_path: Path) -> None:
    newer = ("trained_hours", "validated_from", "validated_until")
    info = {key: value for key, value in INFO.items() if key not in newer}
    facts = read_run_facts(write(tmp_path, info, ""))
    assert facts is not None and facts.trained_days is None and facts.course == ()
    assert facts.validation_part(3600, None) is None


def test_without_a_finished_training_there_are_no_facts(tmp_path: Path) -> None:
    assert read_run_facts(tmp_path) is None


@pytest.mark.parametrize(("info", "lines"), [(INFO, "{broken\n"), ({"epochs": 2}, "")])
def test_a_damaged_file_is_an_error_of_one_line(
    tmp_path: Path, info: dict[str, Any], lines: str
) -> None:
    with pytest.raises(ValueError, match="is damaged .*; restore it, or evaluate") as error:
        read_run_facts(write(tmp_path, info, lines))
    assert "\n" not in str(error.value)


def test_the_last_gain_is_of_the_best_loss_not_the_last() -> None:
    assert make_run((0.4, 0.2, 0.2, 0.5)).last_gain == 0.0
    assert make_run((0.4, 0.4, 0.4, 0.3)).last_gain == pytest.approx(0.25)
    assert make_run((0.4,)).last_gain is None
