from hypothesis import given
from hypothesis import strategies as st

from sdmad.recipes.records import Record, draw_test, images_below, keep_apart
from tests.recipes.trees import image


@given(st.sets(st.text(max_size=8), max_size=40), st.floats(0, 1))
def test_the_draw_has_its_share_and_does_not_depend_on_order(patients, share) -> None:
    test = draw_test(sorted(patients), share)
    assert test <= patients
    assert len(test) == round(share * len(patients))
    assert draw_test(sorted(patients, reverse=True), share) == test


def test_the_draw_is_the_same_on_every_machine() -> None:
    # The five with the smallest SHA-256: 9, 8, 4, 3, 0 (`printf 9 | sha256sum`).
    assert draw_test(str(k) for k in range(10)) == {"0", "3", "4", "8", "9"}


def test_only_pool_images_of_test_patients_are_left_out(tmp_path) -> None:
    def record(member: str, patient: str, split: str, left_out: str = "") -> Record:
        return Record(tmp_path / member, member, patient, split, (), left_out)

    records = [
        record("a", "1", "pool"),
        record("b", "1", "test"),
        record("c", "2", "pool"),
        record("d", "3", "test", "damaged"),
        record("e", "3", "pool"),
    ]
    kept = [r.member for r in keep_apart(records) if not r.left_out]
    assert kept == ["b", "c", "e"], "a patient whose only test image is left out stays in the pool"


def test_images_have_an_image_suffix_and_are_not_hidden(tmp_path) -> None:
    for name in ("b.PNG", "a.jpeg", ".hidden.png", "__MACOSX/._c.png", "d/.e/f.png", "d/g.tif"):
        image((tmp_path / name).with_suffix(".png"))
        (tmp_path / name).with_suffix(".png").rename(tmp_path / name)
    (tmp_path / "notes.txt").write_text("")
    names = [path.relative_to(tmp_path).as_posix() for path in images_below(tmp_path)]
    assert names == ["a.jpeg", "b.PNG", "d/g.tif"]
