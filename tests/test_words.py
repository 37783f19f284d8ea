"""Numbers with nouns."""

import pytest

from sdmad.words import counted, duration


def test_one_thing_has_no_plural() -> None:
    assert [counted(n, "work unit") for n in (0, 1, 2, 12288)] == [
        "0 work units",
        "1 work unit",
        "2 work units",
        "12,288 work units",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119, "119 s"), (600, "10 min"), (12600, "3.5 h"), (864000, "10 days")],
)
def test_a_duration_has_one_unit(seconds, text) -> None:
    assert duration(seconds) == text
