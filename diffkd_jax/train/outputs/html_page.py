"""Writes an HTML page that needs no network: its tables, images and links."""

import base64
import html
import pathlib
import urllib.parse
from collections.abc import Sequence

from ..workdir.directory import write_whole

STYLE = """body { font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto;
padding: 0 1em; color: #222 } img { max-width: 100% } pre { overflow-x: auto;
background: #f6f6f6; padding: 1em; font-size: 13px } table { border-collapse: collapse }
td, th { padding: .3em 1em; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left }"""


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """Returns a table, whose first row is the header.

    Args:
      rows: texts of the cells, which are escaped.

    >>> html_table([("a", "b"), ("<", "2")])
    '<table><tr><th>a</th><th>b</th></tr><tr><td>&lt;</td><td>2</td></tr></table>'
    """
    header, *body_rows = rows
    line = lambda cells, tag: "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)
    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in body_rows)
    return f"<table><tr>{line(header, 'th')}</tr>{body}</table>"


def html_image(path: pathlib.Path) -> str:
    """Returns a paragraph with an image in it.

    Args:
      path: the PNG file, whose bytes become part of the page.
    """
    data = base64.b64encode(path.read_bytes()).decode()
    name = html.escape(path.stem)
    return f'<p><img alt="{name}" src="data:image/png;base64,{data}"></p>'


def html_line(text: str) -> str:
    """Returns a paragraph of text.

    Args:
      text: the text, which is escaped.

    >>> html_line("a < b")
    '<p>a &lt; b</p>'
    """
    return f"<p>{html.escape(text)}</p>"


def html_link(folder: str) -> str:
    """Returns an item of a list that links to the report in a folder.

    Args:
      folder: name of the folder, beside the page.

    >>> html_link("kd")
    '<li><a href="kd/report.html">kd</a></li>'
    """
    target = html.escape(urllib.parse.quote(folder, errors="replace"))
    return f'<li><a href="{target}/report.html">{html.escape(folder)}</a></li>'


def write_page(path: pathlib.Path, title: str, body: Sequence[str]) -> None:
    """Writes a page, which appears when it is complete.

    Args:
      path: the HTML file.
      title: title of the page.
      body: elements of the page, in HTML.
    """
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1>{''.join(body)}</body></html>\n"
    )
    write_whole(path, page)
