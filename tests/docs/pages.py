"""Markdown pages taken apart: sections, code blocks, first columns of tables, links, anchors."""

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.helpers import ROOT

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("README.md", "docs/**/*.md", "benchmarks/README.md", "cluster/README.md")
    for path in ROOT.glob(pattern)
)


def tokens(page: str, below: str = "") -> list[Token]:
    """The tokens of a page, or of the section under one heading with its subsections."""
    whole = _parse(ROOT / page)
    if not below:
        return whole
    headings = [(k, t.tag) for k, t in enumerate(whole) if t.type == "heading_open"]
    [(start, tag)] = [(k, tag) for k, tag in headings if whole[k + 1].content == below]
    return whole[start : next((k for k, t in headings if k > start and t <= tag), None)]


def code(page: str, language: str = "", below: str = "") -> list[str]:
    """The code blocks in a language; those without one are the indented blocks."""
    kind = "fence" if language else "code_block"
    return [t.content for t in tokens(page, below) if t.type == kind and t.info == language]


def commands(page: str) -> list[str]:
    """The lines of the indented blocks, continued lines as one."""
    return "".join(code(page)).replace("\\\n", " ").splitlines()


def block(page: str, start: str) -> str:
    """The only code block of a page that has a line with this start."""
    (found,) = (
        text for text in code(page) if any(line.startswith(start) for line in text.splitlines())
    )
    return found


def first_column(page: str, below: str = "") -> list[str]:
    """The text of the first cell of every row of every table."""
    found = tokens(page, below)
    return [
        found[k + 2].content
        for k, token in enumerate(found[:-2])
        if token.type == "tr_open" and found[k + 1].type == "td_open"
    ]


def links(page: str) -> Iterator[str]:
    """The targets of all links and images."""
    for token in tokens(page):
        for child in token.children or []:
            target = child.attrs.get({"link_open": "href", "image": "src"}.get(child.type, ""))
            if target:
                yield str(target)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub names them."""
    found: list[str] = []
    whole = _parse(path)
    for token, inline in itertools.pairwise(whole):
        if token.type == "heading_open":
            text = "".join(child.content for child in inline.children or [])
            found.append(re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-"))
    return {f"{a}-{n}" if (n := found[:k].count(a)) else a for k, a in enumerate(found)}


def _parse(path: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(path.read_text())
