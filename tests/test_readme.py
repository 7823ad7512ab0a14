"""The README claims what was measured, and only that."""

from pathlib import Path

from benchmarks.readme import README, updated

ROOT = Path(__file__).parent.parent


def test_the_tables_are_those_of_the_recorded_results() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == updated(text), "run `python -m benchmarks.readme`"


def test_files_it_points_to_exist() -> None:
    text = README.read_text(encoding="utf-8")
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    local = [link for link in links if "://" not in link]
    assert local and all((ROOT / link).exists() for link in local)
