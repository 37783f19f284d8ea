"""Relative links of the pages lead to files that exist, and to headings that these have."""

from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.pages import PAGES, anchors, links
from tests.helpers import ROOT


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in links(page):
        target = urlsplit(link)
        if target.scheme:
            continue
        path = ROOT / page
        if target.path:
            path = path.parent / unquote(target.path)
        assert path.exists(), link
        if target.fragment:
            assert target.fragment in anchors(path), link
