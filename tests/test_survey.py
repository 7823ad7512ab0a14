"""The first pass: spans of servers, and profiles."""

from pathlib import Path

import numpy as np
import pytest

from data.reading.files import open_table
from data.reading.survey import survey_table
from tests.tables import MIDNIGHT, SPEC, rows

DAY = 86_400
TEN_YEARS = 10 * 366 * DAY


def survey(folder: Path, *lines: str):
    path = folder / "table.csv"
    path.write_text(rows(*lines, header="timestamp,server_name,load,profile"))
    return survey_table(open_table(path), SPEC, ["load"], lambda share: None)


def test_spans_and_columns(tmp_path):
    lines = [f"{MIDNIGHT + 300 * tick},b,{tick},web" for tick in (7, 3, 5)]
    found = survey(tmp_path, *lines, f"{MIDNIGHT},a,-2,", "never,c,9,db")
    assert list(found.codes.names) == ["b", "a", "c"]
    assert (found.first_tick - MIDNIGHT // 300)[:2].tolist() == [3, 0]
    assert (found.last_tick - MIDNIGHT // 300)[:2].tolist() == [7, 0]
    assert found.first_tick[2] > found.last_tick[2]  # a server without a row
    assert found.profiles() == ["web", None, None]
    stats = found.columns["load"]
    assert (stats.values, stats.low, stats.high, stats.negative) == (4, -2, 7, 1)


def test_of_equally_common_profiles_the_first_by_name(tmp_path):
    lines = [f"{MIDNIGHT + 300 * tick},a,1,{name}" for tick, name in enumerate(("web", "db"))]
    assert survey(tmp_path, *lines).profiles() == ["db"]


def test_ten_years_and_no_more(tmp_path):
    years = [f"{MIDNIGHT - days * DAY},a,1," for days in range(0, 3661, 60)]
    survey(tmp_path, *years)
    with pytest.raises(ValueError, match="server 'a'.*over ten years; take out the rows"):
        survey(tmp_path, *years, f"{MIDNIGHT - TEN_YEARS - 300},a,1,")


@pytest.mark.parametrize("shift", [0, 17, 59])
def test_sixty_days_without_a_row_and_no_more(tmp_path, shift):
    """Wherever in a period of 60 days they start, and in whatever order the rows are."""
    start = MIDNIGHT + shift * DAY
    survey(tmp_path, f"{start + 60 * DAY},a,1,", f"{start},a,1,", f"{start + 500 * DAY},b,1,")
    with pytest.raises(ValueError, match="server 'a'.* 60 days later; take out the rows") as error:
        survey(tmp_path, f"{start + 60 * DAY + 300},a,1,", f"{start - DAY},b,1,", f"{start},a,1,")
    for time in (start, start + 60 * DAY + 300):
        assert str(np.datetime64(time, "s")) in str(error.value)
