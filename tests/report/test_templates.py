"""The numbers of pages, as templates and the terminal write them."""

import numpy as np
import pytest

from sdmad.evaluation.statistics import Judged
from sdmad.report import terminal
from sdmad.report.templates import HERE, templates


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{{ x | percent }}", "0.0"),
        ("{{ x | whole }}", "0"),
        ("{{ x | fixed(2) }}", "0.00"),
        ("{{ x | signed(2) }}", "+0.00"),
    ],
)
@pytest.mark.parametrize("kind", [float, np.float32, np.float64])
def test_no_number_is_minus_zero(text, shown, kind) -> None:
    template = templates().from_string(text)
    for value in (-0.0004, -0.0):
        assert template.render(x=kind(value)) == shown
    assert template.render(x=kind("nan")) == "-"
    assert template.render(x=kind(-0.5)).startswith("-")


def test_no_template_formats_numbers_by_itself() -> None:
    """Only the filters know how not to write -0."""
    for path in HERE.glob("*.html"):
        assert "format(" not in path.read_text(), path.name


def test_the_terminal_shows_no_minus_zero() -> None:
    shown = terminal._judged(Judged(-0.0001, -0.0002, 0.01, 0.5, 1.0, 0.02, "not distinguishable"))
    assert shown == "+0.0 (+0.0 to +1.0), not distinguishable"
    assert terminal._percent(-0.0001) == "0.0"
