"""The sentences on top of the report are the counts below it."""

from dataclasses import replace

import numpy as np

from sdmad.report.words import mistakes, plain_words
from tests.report.made import label_table, scored_test

NAMES = ["cataract", "high_myopia"]


def test_sentences_count_images() -> None:
    truth = np.array([[1, 0]] * 4 + [[0, 1]] * 3 + [[0, 0]] * 5, bool)
    found = truth.copy()
    found[0] = False  # A miss without any finding.
    found[4:6] = [True, False]  # Two myopias taken for cataracts.
    found[7] = [True, True]  # A normal image.
    found[1] = [True, True]  # One finding too many.
    test = scored_test(label_table(truth, NAMES), np.where(found, 0.9, 0.1)[..., None])
    text = " ".join(plain_words(test))
    assert "Of 7 images with an anomaly, 6 get a finding, and 3 exactly the labelled ones." in text
    assert "Of 5 normal images, 1 gets a finding." in text
    assert "Of 4 images with cataract, 3 are found, the largest share of the 2 categories" in text
    assert "of 3 with high myopia, the smallest, 1." in text
    assert "Most mistakes: high myopia is taken for cataract (2 images); " in text


def test_why_no_image_has_a_finding() -> None:
    truth = np.eye(2, dtype=bool).repeat(5, axis=0)
    seeds = np.where(truth, 0.4, 0.1)[..., None]
    test = scored_test(label_table(truth, NAMES), seeds)
    assert "No image has a finding; the highest score is 0.4." in plain_words(test)
    assert "prevalence" not in " ".join(plain_words(test))
    stated = replace(test, metadata=test.metadata | {"prevalence": "0.01;0.02"})
    assert "`sdmad calibrate` chooses other thresholds" in " ".join(plain_words(stated))


def test_each_wrong_finding_of_a_normal_image_or_a_complete_one_is_counted_once() -> None:
    rng = np.random.default_rng(0)
    truth, found = rng.random((500, 3)) < 0.2, rng.random((500, 3)) < 0.2
    counts = mistakes(truth, found, ["a", "b", "c"])
    normal = ~truth.any(axis=1)
    complete = ~normal & ~(truth & ~found).any(axis=1)
    false = found & ~truth
    assert sum(n for t, n in counts.items() if "normal" in t) == false[normal].sum()
    assert sum(n for t, n in counts.items() if "beside" in t) == false[complete].sum()
    assert (
        counts["a is taken for b"]
        == (truth[:, 0] & ~found[:, 0] & found[:, 1] & ~truth[:, 1]).sum()
    )
    assert not any(" taken for a" in t and t.startswith("a ") for t in counts)
