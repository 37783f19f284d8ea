import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdmad.errors import UserError
from sdmad.inputs.labels import LabelTable
from sdmad.inputs.support import draw_support


def table(labels: list[list[int]], patients: list[str], splits: list[str]) -> LabelTable:
    count = len(labels)
    return LabelTable(
        archive=np.array(["a.tar"] * count, object),
        member=np.array([f"{k}.png" for k in range(count)], object),
        patient=np.array(patients, object),
        split=np.array(splits, object),
        labels=np.array(labels, bool),
        categories=["one", "two"],
    )


def random_table(seed: int, count: int = 60) -> LabelTable:
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 2)) < (0.4, 0.25)).astype(int).tolist()
    patients = [f"p{k}" for k in rng.integers(0, 40, count)]
    splits = rng.choice(["pool", "test"], count, p=[0.8, 0.2]).tolist()
    return table(labels, patients, splits)


@given(st.integers(0, 10_000), st.integers(0, 50), st.integers(1, 3))
def test_a_support_has_its_shots_and_no_patient_of_the_test_split(data, seed, shots) -> None:
    labels = random_table(data)
    try:
        rows = draw_support(labels, shots, seed)
    except UserError:
        return
    drawn = labels.labels[rows]
    assert (drawn.sum(axis=0) >= shots).all()
    assert (~drawn.any(axis=1)).sum() == shots
    assert len(rows) <= 3 * shots
    assert (labels.split[rows] == "pool").all()
    tested = set(labels.patient[labels.split == "test"])
    assert not tested & set(labels.patient[rows])
    assert len(set(rows)) == len(rows)


def test_the_same_seed_gives_the_same_support_and_others_differ() -> None:
    labels = random_table(1, 200)
    draws = [tuple(draw_support(labels, 3, seed)) for seed in range(12)]
    assert draws[5] == tuple(draw_support(labels, 3, 5))
    assert len(set(draws)) == 12


def test_the_order_of_the_draw_is_sha256_of_seed_archive_and_member() -> None:
    labels = table([[1, 0], [0, 1], [0, 0]] * 4, [f"p{k}" for k in range(12)], ["pool"] * 12)
    assert draw_support(labels, 1, 0).tolist() == _by_hand(labels, 0)
    assert draw_support(labels, 1, 7).tolist() == _by_hand(labels, 7)


def _by_hand(labels: LabelTable, seed: int) -> list[int]:
    from hashlib import sha256

    def order(row: int) -> str:
        return sha256(f"{seed}\x1fa.tar\x1f{labels.member[row]}".encode()).hexdigest()

    return sorted(min(range(start, 12, 3), key=order) for start in range(3))


def test_the_order_of_rows_does_not_change_the_support() -> None:
    labels = random_table(3, 100)
    order = np.random.default_rng(0).permutation(100)
    shuffled = labels.where(order)
    first = set(labels.member[draw_support(labels, 2, 4)])
    assert first == set(shuffled.member[draw_support(shuffled, 2, 4)])


def test_an_image_with_two_categories_counts_for_both() -> None:
    labels = table([[1, 1], [1, 0], [1, 0], [0, 0]], ["a", "b", "c", "d"], ["pool"] * 4)
    # The only image of "two" also serves "one": no further image of it is drawn.
    assert draw_support(labels, 1, 0).tolist() == [0, 3]


def test_shots_are_of_different_patients_where_possible() -> None:
    labels = table(
        [[1, 0]] * 4 + [[0, 1]] * 2 + [[0, 0]] * 2,
        ["same", "same", "same", "other", "e", "f", "g", "h"],
        ["pool"] * 8,
    )
    for seed in range(10):
        rows = draw_support(labels, 2, seed)
        assert "other" in labels.patient[rows]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[1, 0], [1, 0], [0, 0], [0, 0]], "2 images of two"),
        ([[1, 0], [1, 1], [0, 1], [0, 0]], "2 images of normal"),
    ],
)
def test_the_error_for_too_few_images_names_the_category(labels, message) -> None:
    with pytest.raises(UserError, match=message):
        draw_support(table(labels, ["a", "b", "c", "d"], ["pool"] * 4), 2, 0)
