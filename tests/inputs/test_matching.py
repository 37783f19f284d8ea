"""Names as people see them."""

from sdmad.inputs.matching import told_apart


def test_names_that_look_alike_are_told_apart_by_their_characters() -> None:
    assert told_apart(("", "x.png"), ("", "./x.png")) == "x.png and ./x.png"
    assert told_apart(("s.tar", "M\u00fc"), ("s.tar", "Mu\u0308")) == (
        "'s.tar/M\\xfc' and 's.tar/Mu\\u0308'"
    )
