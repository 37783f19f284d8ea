from sdmad.fitting.config_reference import page
from tests.helpers import ROOT


def test_the_page_in_docs_is_up_to_date() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == page()
