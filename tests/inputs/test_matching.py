"""Names as people see them."""

from sdmad.inputs.matching import NameIndex, some, told_apart


def test_names_that_look_alike_are_told_apart_by_their_characters() -> None:
    assert told_apart(("", "x.png"), ("", "./x.png")) == "x.png and ./x.png"
    assert told_apart(("s.tar", "M\u00fc"), ("s.tar", "Mu\u0308")) == (
        "'s.tar/M\\xfc' and 's.tar/Mu\\u0308'"
    )


def test_a_row_is_found_by_every_name_that_matches() -> None:
    names = NameIndex([("s.tar", "M\u00fc"), ("", "x.png")])
    found = [names.find(name) for name in (("./s.tar", "Mu\u0308"), ("", "./x.png"), ("", "X.png"))]
    assert found == [0, 1, None]


def test_of_many_names_a_few_are_shown_and_the_others_counted() -> None:
    names = [("s.tar", f"{k}.png") for k in range(1203)]
    assert some(names) == "s.tar/0.png, s.tar/1.png, s.tar/2.png and 1,200 more"
