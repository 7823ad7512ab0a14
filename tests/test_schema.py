"""Roles, codes and their stability."""

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from tests.builders import SCHEMA
from tft.schema import FeatureSchema, Metric


def test_server_codes_are_the_same_in_every_process() -> None:
    """Python's own hash() is salted per process: a saved model would meet shuffled servers."""
    code = "from tests.builders import SCHEMA; print(SCHEMA.server_code('ppdb0001'))"
    for salt in ("1", "2"):
        result = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        )
        assert int(result.stdout) == SCHEMA.server_code("ppdb0001") == 6


def test_codes_use_every_bucket_but_the_unknown_one() -> None:
    codes = {SCHEMA.server_code(f"server{i}") for i in range(500)}
    assert codes == set(range(1, SCHEMA.server_buckets))


def test_unseen_profiles_are_unknown_and_no_error() -> None:
    assert [SCHEMA.profile_code(p) for p in ("database", "web_api", "mainframe", None)] == [
        1, 2, 0, 0,
    ]  # fmt: skip


def test_round_trip() -> None:
    assert FeatureSchema.from_dict(SCHEMA.to_dict()) == SCHEMA


def test_fields_of_another_version_are_named() -> None:
    plain = SCHEMA.to_dict()
    plain["colour"] = plain.pop("profiles")
    with pytest.raises(ValueError, match=r"missing \['profiles'\], unknown \['colour'\]"):
        FeatureSchema.from_dict(plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ()}, "no target"),
        ({"observed": (Metric("cpu_percent"),)}, "cpu_percent twice"),
        ({"quantiles": (0.1, 0.9)}, "contain 0.5"),
        ({"quantiles": (0.5, 0.1)}, "ascend"),
        ({"quantiles": (0.0, 0.5)}, "between 0 and 1"),
        ({"min_context_length": 31}, "min_context_length 31"),
        ({"prediction_horizon": 0}, "prediction_horizon 0"),
        ({"days_before": 0}, "days_before 0"),
        ({"server_buckets": 1}, "server_buckets 1"),
    ],
)
def test_contradictions_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SCHEMA, **change)


def test_bounds_that_leave_no_room_are_refused() -> None:
    with pytest.raises(ValueError, match="lower bound 5"):
        Metric("cpu", 5.0, 5.0)
    with pytest.raises(ValueError, match="not finite"):
        Metric("cpu", float("nan"))
