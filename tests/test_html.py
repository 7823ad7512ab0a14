"""Pages stand alone and read what they are given as text."""

import re

from matplotlib.figure import Figure

from report.html import Section, items, page, paragraph, picture, table

HOSTILE = "<script>alert(\"1\")</script> & 'x'"


def test_names_of_servers_are_text_and_never_markup() -> None:
    body = (
        paragraph(HOSTILE)
        + items([HOSTILE])
        + table([HOSTILE], [[HOSTILE]])
        + picture(Figure(figsize=(1, 1)), HOSTILE, HOSTILE)
    )
    whole = page(HOSTILE, [Section(HOSTILE, body, HOSTILE)])
    assert "<script" not in whole
    assert whole.count("&lt;script&gt;") == 10


def test_a_page_asks_nobody_for_anything() -> None:
    """It is opened from a mail or a share, where there may be no network."""
    whole = page("t", [Section("s", picture(Figure(figsize=(1, 1)), "a line"))])
    sources = re.findall(r'(?:src|href)="([^"]*)"', whole)
    assert len(sources) == 1 and sources[0].startswith("data:image/png;base64,")
    assert "http" not in whole and "@import" not in whole


def test_only_text_columns_are_aligned_left_and_a_strong_row_stands_out() -> None:
    made = table(["name", "score"], [["a", "1"], ["b", "2"]], strong=[1])
    assert "<th class=text>name</th><th>score</th>" in made
    assert '<tr><td class=text>a</td><td>1</td></tr><tr class="strong">' in made
