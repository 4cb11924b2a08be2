"""One HTML file that holds everything: images inside, no script, no network, one column on a telephone."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from agegender.evaluation.report_html import WARNING, address_of, shell
from agegender.schema import RACES
from experiments.exploring.faces import Sheet, caption
from experiments.exploring.table import Table

_STYLE: Final = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 60rem; margin: 0 auto;
  padding: 0 1rem 3rem; }
h1 { margin-bottom: 0; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid #ccc; }
.warning { border-left: 4px solid #D55E00; background: #fdf3ec; padding: .6rem 1rem; }
.plot { display: block; width: 100%; max-width: 40rem; height: auto; margin: 1rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #e5e5e5; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.words { white-space: normal; }
.faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(6.6rem, 1fr)); gap: .6rem;
  margin: .4rem 0 1.4rem; }
.faces figure { margin: 0; text-align: center; }
.faces img { width: 100%; aspect-ratio: 1; object-fit: cover; }
.faces figcaption { font-size: .8rem; line-height: 1.25; overflow-wrap: anywhere; }
.faces small { color: #666; font-size: .6rem; }
@media (max-width: 30rem) { table { font-size: .8rem; } th, td { padding: .2rem .3rem; } }
nav a { display: inline-block; margin-right: 1rem; color: #0072B2; }
"""


def page(title: str, opening: str, sections: Mapping[str, str]) -> str:
    """The whole page: its head, the warning, an opening, links to the sections, and these, each under its title."""
    return shell(title, sections, opening=f'<p class="warning">{WARNING}</p>\n{opening}\n', style=_STYLE)


def paragraph(words: str) -> str:
    return f"<p>{html.escape(words)}</p>"


def plot(png: bytes, words: str) -> str:
    """A plot; the words are for those who do not see it."""
    return f'<img class="plot" alt="{html.escape(words)}" src="{address_of(png, "png")}">'


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; what is no string is written as a whole number."""
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    for row in rows:
        cells = [html.escape(cell) if isinstance(cell, str) else f"{cell:,}" for cell in row]
        lines.append(
            f'<tr><td class="words">{cells[0]}</td>' + "".join(f"<td>{cell}</td>" for cell in cells[1:]) + "</tr>"
        )
    return '<div class="wide"><table>\n' + "\n".join(lines) + "\n</table></div>"


def portions(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of splits or folds, side by side: how many, ages, and the shares of women and of each race."""
    rows: list[list[object]] = [
        ["images", *(part["count"] for part in parts.values())],
        ["share", *(f"{part['share']:.1%}" for part in parts.values())],
        ["mean age", *(f"{part['mean_age']:.2f}" for part in parts.values())],
        ["median age", *(f"{part['age_quartiles'][1]:g}" for part in parts.values())],
        ["ages", *(f"{part['youngest']}\u2013{part['oldest']}" for part in parts.values())],
        ["female", *(f"{part['female_share']:.1%}" for part in parts.values())],
    ]
    rows += [[race, *(f"{part['race_shares'][race]:.1%}" for part in parts.values())] for race in RACES]
    return table(["", *parts], rows)


def sheet(labels: Table, images: Mapping[int, bytes], of: Sheet) -> str:
    """Grids of faces, as many a line as fit, each with what is recorded about it."""
    parts = [paragraph(of.words)]
    for row in of.rows:
        parts += [paragraph(row.words)] if row.words else []
        cells = "\n".join(_face(caption(labels, image), images[image]) for image in row.images)
        parts.append(f'<div class="faces">\n{cells}\n</div>')
    return "\n".join(parts)


def _face(words: tuple[str, str, str], encoded: bytes) -> str:
    name, people, more = (html.escape(line) for line in words)
    name = name.replace("_", "_<wbr>")  # where a long name may go on in the next line
    image = f'<img alt="{people}" src="{address_of(encoded, "jpeg")}">'
    return f"<figure>{image}<figcaption>{people}<br>{more}<br><small>{name}</small></figcaption></figure>"
