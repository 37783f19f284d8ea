"""Names as people see them."""

from sdmad.inputs.matching import NameIndex, told_apart


def test_names_that_look_alike_are_told_apart_by_their_characters() -> None:
    assert told_apart(("", "x.png"), ("", "./x.png")) == "x.png and ./x.png"
    assert told_apart(("s.tar", "M\u00fc"), ("s.tar", "Mu\u0308")) == (
        "'s.tar/M\\xfc' and 's.tar/Mu\\u0308'"
    )


def test_a_row_is_found_by_every_name_that_matches() -> None:
    names = NameIndex([("s.tar", "M\u00fc"), ("", "x.png")])
    found = [names.find(name) for name in (("./s.tar", "Mu\u0308"), ("", "./x.png"), ("", "X.png"))]
    assert found == [0, 1, None]
