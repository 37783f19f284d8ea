"""Names of local files as text."""

import os

from hypothesis import example, given
from hypothesis import strategies as some

from sdmad.storage.names import clean, escaped, local_path, unescaped


@given(some.binary(max_size=20))
@example(rb"a\xff.png")
@example(b"a\xff.png")
@example(rb"\x5cxff\x5c" + b"\\")
@example("ü".encode("latin-1") + "ü".encode())
def test_every_name_of_a_file_comes_back_from_text(name) -> None:
    text = escaped(os.fsdecode(name))
    text.encode()  # UTF-8
    assert os.fsencode(unescaped(text)) == name
    assert "\x00" not in text


@given(some.binary(max_size=8), some.binary(max_size=8))
def test_different_names_are_different_texts(one, other) -> None:
    assert (escaped(os.fsdecode(one)) == escaped(os.fsdecode(other))) == (one == other)


@given(some.text(max_size=20))
def test_text_stays_as_it_is(text) -> None:
    if "\x00" not in text:
        assert clean(text) == text
    assert clean(clean(text)) == clean(text)


def test_a_path_with_a_literal_backslash_is_found(tmp_path) -> None:
    folder = tmp_path / r"a\x41"
    folder.mkdir()
    assert local_path(str(folder)) == folder
