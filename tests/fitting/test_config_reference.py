from sdmad.fitting.config_reference import page
from tests.helpers import ROOT


def test_the_page_of_keys_is_that_of_the_code() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == page()
