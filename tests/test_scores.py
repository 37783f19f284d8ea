"""Scores as a sequence of images and as a table."""

import numpy as np
import pytest

from sdmad import Detector
from sdmad.phantoms.task import draw_example
from sdmad.scores import Scores, concatenate
from sdmad.scoring.tables import ScoreColumns, score_rows


@pytest.fixture(scope="module")
def scores(training_run) -> Scores:
    detector = Detector.load(str(training_run))
    return detector.score([draw_example(k, "test").image for k in range(12)])


def test_one_image_has_its_scores_by_name(scores) -> None:
    image = scores[3]
    assert image.name == "3"
    assert list(image.categories) == list(scores.category_names)
    assert list(image.categories.values()) == scores.categories[3].tolist()
    assert list(image.similarities) == list(scores.sign_names)
    assert (
        image.findings == scores.findings[3] == [n for n, p in image.categories.items() if p > 0.5]
    )
    assert (image.signs, image.evidence) == (scores.signs[3], scores.evidence[3])
    assert scores[-1] == scores[11] == scores[np.int64(11)]
    assert [one.name for one in scores] == [str(k) for k in range(12)]
    for outside in (12, -13):
        with pytest.raises(IndexError):
            scores[outside]


def test_some_images_are_scores_again(scores) -> None:
    mask = np.arange(12) % 2 == 0
    for key in (slice(0, None, 2), mask, mask.tolist(), [0, 2, 4, 6, 8, 10]):
        some = scores[key]
        assert len(some) == 6
        assert some.names == ["0", "2", "4", "6", "8", "10"]
        assert np.array_equal(some.seeds, scores.seeds[::2])
        assert some.findings == scores.findings[::2]
    assert len(scores[[]]) == len(scores[5:5]) == 0
    whole = concatenate([scores[:5], scores[5:]])
    assert np.array_equal(whole.seeds, scores.seeds)
    assert whole.names == scores.names
    assert whole.sign_names == scores.sign_names


def test_the_table_has_the_columns_and_values_of_a_score_table(scores) -> None:
    columns = ScoreColumns(list(scores.category_names), 3, per_seed=False)
    expected = score_rows(scores, np.arange(12), 12, columns).to_pandas()
    found = scores.to_pandas()
    assert list(found.columns) == list(expected.columns)
    assert list(found.index) == scores.names
    for name in expected.columns:
        if name in ("findings", "uncertain"):
            assert [list(v) for v in found[name]] == [list(v) for v in expected[name]]
        elif expected[name].dtype == np.float32:
            assert np.array_equal(found[name], expected[name])
    assert [[s["sign"] for s in row] for row in found["signs"]] == [
        [s["sign"] for s in row] for row in expected["signs"]
    ]


def test_scores_are_shown_in_a_line_and_in_a_notebook_as_a_short_table(scores) -> None:
    found = sum(bool(f) for f in scores.findings)
    assert repr(scores) == f"<Scores of 12 images, {found} with findings; 6 categories, 3 seeds>"
    assert repr(scores[:1]).startswith("<Scores of 1 image, ")
    shown = concatenate([scores] * 4)._repr_html_()
    assert shown.count("<tr") == 21, "a header and 20 rows"
    assert "<th>calcinosis</th>" in shown
    row = next(k for k in range(12) if scores.findings[k])
    first = scores.findings[row][0]
    assert f"{first} {scores[row].categories[first]:.2f}" in repr(scores[row])
