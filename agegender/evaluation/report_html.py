"""A report's sections as Markdown and as one HTML file that holds everything: no script, no network, light and dark.

Here too, on a page of its own, the images with the largest errors.
"""

import base64
import html
import pathlib
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from agegender.evaluation.groups import P_FEMALE, PREDICTED_AGE, Table
from agegender.evaluation.report_sections import Block, Plot, Rows, Sections
from agegender.schema import AGE, FILE_NAME, GENDER, GENDERS

WARNING: Final = (
    "This page shows images of people. Images of UTKFace may not be published: not the image, not a crop, not a "
    "page or a plot that shows one. Keep it to yourself; the numbers may be passed on."
)
_STYLE: Final = """
:root { color-scheme: light dark; --line: #ddd; --quiet: #666; --warn: #fdf3ec; }
@media (prefers-color-scheme: dark) { :root { --line: #444; --quiet: #aaa; --warn: #3a2a1e; } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 0 1rem 3rem; }
h1 { margin-bottom: 0; }
h2 { margin-top: 2.5rem; border-bottom: 1px solid var(--line); }
nav a { margin-right: .8rem; }
.warning { border-left: 4px solid #D55E00; background: var(--warn); padding: .6rem 1rem; }
.plot { display: block; width: 100%; max-width: 40rem; height: auto; margin: 1rem 0; border-radius: .4rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0; font-size: .9rem; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
.faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(7rem, 1fr)); gap: .6rem; }
.faces figure { margin: 0; text-align: center; }
.faces img { width: 100%; aspect-ratio: 1; object-fit: cover; }
.faces figcaption { font-size: .8rem; line-height: 1.3; overflow-wrap: anywhere; }
.faces small { color: var(--quiet); font-size: .6rem; }
"""


def markdown(title: str, sections: Sections) -> str:
    """The sections as Markdown; plots as links to files beside it."""
    parts = [f"# {title}"]
    for name, blocks in sections.items():
        parts += [f"## {name}", *map(_markdown_block, blocks)]
    return "\n\n".join(parts) + "\n"


def html_page(title: str, sections: Sections, *, folder: pathlib.Path | None = None) -> str:
    """The sections as one HTML file.

    Args:
        title: of the page.
        sections: of it.
        folder: where the plots are, which the page will hold.
    """
    contents = {name: "\n".join(_html_block(block, folder) for block in blocks) for name, blocks in sections.items()}
    return shell(title, contents)


def shell(title: str, sections: Mapping[str, str], *, opening: str = "", style: str = _STYLE) -> str:
    """One HTML file with links to its sections.

    Args:
        title: of the page.
        sections: HTML, at the title of each.
        opening: HTML, above the links.
        style: CSS.
    """
    titles = [html.escape(name) for name in sections]
    links = "\n".join(f'<a href="#s{number}">{name}</a>' for number, name in enumerate(titles))
    body = "\n".join(
        f'<section id="s{number}">\n<h2>{name}</h2>\n{content}\n</section>'
        for number, (name, content) in enumerate(zip(titles, sections.values(), strict=True))
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{opening}<nav>\n{links}\n</nav>\n{body}\n</body>\n</html>\n"
    )


def largest_errors(table: Table, count: int = 48) -> dict[str, list[int]]:
    """Which images were guessed worst, the worst first.

    Returns:
        The rows with the largest age errors, and those with the wrong gender that the model was surest of; at most
        `count` each, under a title each.
    """
    found = {}
    if PREDICTED_AGE in table:
        errors = np.abs(table[PREDICTED_AGE] - table[AGE])
        found["The largest age errors"] = np.argsort(-errors, kind="stable")[:count].tolist()
    if P_FEMALE in table:
        given = np.where(table[GENDER] >= 0.5, table[P_FEMALE], 1 - table[P_FEMALE])
        wrong = (table[P_FEMALE] >= 0.5) != (table[GENDER] >= 0.5)
        surest = np.argsort(given, kind="stable")
        found["The surest of the wrong genders"] = surest[wrong[surest]][:count].tolist()
    return {title: rows for title, rows in found.items() if rows}


def errors_page(title: str, table: Table, images: Mapping[str, bytes]) -> str:
    """The page with the images of `largest_errors`, each encoded as JPEG at its file name."""
    words = "What looks like an error of the model is often one of the labels: look before you judge."
    sections = {}
    for name, rows in largest_errors(table).items():
        faces = "\n".join(_face(table, row, images[table[FILE_NAME][row]]) for row in rows)
        sections[name] = f'<div class="faces">\n{faces}\n</div>'
    return shell(title, sections, opening=f'<p class="warning">{WARNING}</p>\n<p>{words}</p>\n')


def _face(table: Table, row: int, encoded: bytes) -> str:
    recorded, guessed = [], []
    if PREDICTED_AGE in table:
        recorded.append(f"{table[AGE][row]:.0f} years")
        guessed.append(f"{table[PREDICTED_AGE][row]:.1f} years")
    if P_FEMALE in table:
        p_female = table[P_FEMALE][row]
        recorded.append(GENDERS[int(table[GENDER][row])])
        guessed.append(f"{GENDERS[int(p_female >= 0.5)]} {max(p_female, 1 - p_female):.1%}")
    told = f"recorded {', '.join(recorded)}"
    name = html.escape(table[FILE_NAME][row]).replace("_", "_<wbr>")  # where a long name may break
    return (
        f'<figure><img alt="{told}" src="{address_of(encoded, "jpeg")}">'
        f"<figcaption>guess {', '.join(guessed)}<br>{told}<br><small>{name}</small></figcaption></figure>"
    )


def _markdown_block(block: Block) -> str:
    if isinstance(block, Rows):
        line = "|" + "---|" + "---:|" * (len(block.head) - 1)
        return "\n".join([_markdown_line(block.head), line, *map(_markdown_line, block.lines)])
    return f"![{block.words}]({block.name})" if isinstance(block, Plot) else block


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _html_block(block: Block, folder: pathlib.Path | None) -> str:
    if isinstance(block, Rows):
        return '<div class="wide"><table>\n' + "\n".join(_html_lines(block)) + "\n</table></div>"
    if isinstance(block, Plot):
        png = ((folder or pathlib.Path()) / block.name).read_bytes()
        return f'<img class="plot" alt="{html.escape(block.words)}" src="{address_of(png, "png")}">'
    return f"<p>{html.escape(block)}</p>"


def _html_lines(rows: Rows) -> list[str]:
    tagged = [("th", rows.head), *(("td", line) for line in rows.lines)]
    return ["<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) + "</tr>" for tag, line in tagged]


def address_of(image: bytes, kind: str) -> str:
    """A image as an address that holds all of it; its kind is "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(image).decode()}"
