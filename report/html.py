"""Self-contained HTML: one file, no script, no request to anywhere; pictures are inside it."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #5f6670; --line: #d9dde3; --paper: #fff;
  --card: #f6f7f9; --blue: #0072B2; --bad: #b3400a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3abb5; --line: #3a4048;
  --paper: #15181c; --card: #1e2227; --blue: #58b0e3; --bad: #ff9a5c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 68rem; color: var(--ink);
  background: var(--paper); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .5rem; } h2 { font-size: 1.25rem; margin: 2.5rem 0 .5rem; }
h3 { font-size: 1.05rem; margin: 1.3rem 0 .3rem; }
p, li { max-width: 46rem; } a { color: var(--blue); } .soft { color: var(--soft); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
th.text, td.text { text-align: left; } th { color: var(--soft); font-weight: 600; }
tr.strong td { font-weight: 600; } figure { margin: 1rem 0; }
figure img { max-width: 100%; height: auto; background: #fff; border-radius: 6px; }
@media (max-width: 46rem) { figure { overflow-x: auto; } figure img { max-width: 46rem; } }
figcaption { color: var(--soft); font-size: .9rem; max-width: 46rem; }
.yes { border-left: 4px solid var(--blue); padding-left: .8rem; }
.no { border-left: 4px solid var(--bad); padding-left: .8rem; }
ul.yes, ul.no { padding-left: 1.8rem; }
"""


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it, as HTML."""

    title: str
    body: str
    anchor: str = ""
    """What links to it name; none where it is empty."""


def page(title: str, sections: Sequence[Section], lead: str = "") -> str:
    """Return a whole page; `lead` is HTML under the title."""
    parts = [
        f"<section{f' id={quote(section.anchor)}' if section.anchor else ''}>"
        f"<h2>{escape(section.title)}</h2>\n{section.body}\n</section>"
        for section in sections
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><h1>{escape(title)}</h1>\n{lead}\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def paragraph(text: str, style: str = "") -> str:
    """Return a paragraph of plain text, of a style such as "soft"."""
    return f"<p{f' class={quote(style)}' if style else ''}>{escape(text)}</p>"


def items(lines: Sequence[str], style: str = "") -> str:
    """Return a list of plain lines; nothing where there is none."""
    if not lines:
        return ""
    inside = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul{f' class={quote(style)}' if style else ''}>{inside}</ul>"


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    text_columns: int = 1,
    strong: Sequence[int] = (),
) -> str:
    """Return a table of plain cells.

    Args:
        header: a name per column.
        rows: as many cells each.
        text_columns: so many columns from the left are aligned left, the others right.
        strong: numbers of the rows to stand out.
    """

    def row(tag: str, cells: Sequence[str], style: str = "") -> str:
        inside = "".join(
            f"<{tag}{' class=text' if column < text_columns else ''}>{escape(cell)}</{tag}>"
            for column, cell in enumerate(cells)
        )
        return f"<tr{f' class={quote(style)}' if style else ''}>{inside}</tr>"

    body = "".join(
        row("td", cells, "strong" if number in strong else "") for number, cells in enumerate(rows)
    )
    head = row("th", header)
    return f'<div class="wide"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'


def picture(figure: Figure, description: str, caption: str = "", dpi: int = 120) -> str:
    """Return a matplotlib figure as an image inside the page.

    Args:
        figure: what to draw.
        description: what it shows, for who cannot see it.
        caption: stands under it; nothing where empty.
        dpi: dots per inch.
    """
    blob = io.BytesIO()
    figure.savefig(blob, format="png", dpi=dpi, metadata={"Software": None})
    data = base64.b64encode(blob.getvalue()).decode()
    under = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><img alt={quote(description)} src="data:image/png;base64,{data}">{under}</figure>'
    )


def escape(text: str) -> str:
    """Return text that HTML reads as text, whatever a server is called."""
    return html.escape(text, quote=True)


def quote(text: str) -> str:
    """Return text as an attribute's value."""
    return f'"{escape(text)}"'
