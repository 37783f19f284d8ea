"""Suggestions from tables and from activations, without Ray."""

from hashlib import blake2b

import numpy as np
import pytest

from sdmad.errors import UserError
from sdmad.report.suggested import rows_of
from sdmad.scoring import tables
from sdmad.scoring.suggestions.run import suggest, suggest_at_random
from tests.evaluation.test_measure import write_run
from tests.helpers import write_tar
from tests.scoring.helpers import encoded_phantom


def test_activations_tell_images_apart(store) -> None:
    """Of an image that is in the archive three times, one is asked first."""
    copies = {f"copy-{k}.png": encoded_phantom(3) for k in range(2)}
    write_tar(store.archive / "copies.tar", copies)
    assert store.encode().returncode == 0
    assert store.score().returncode == 0
    whole = suggest(str(store.scores), 6, activations=str(store.activations))
    again = suggest(str(store.scores), 6, activations=str(store.activations))
    assert whole == again
    assert (whole.images, whole.spread, whole.notices[1:]) == (15, "embeddings", [])
    three = {"03.png", "copy-0.png", "copy-1.png"}
    assert len([one for one in whole.asked if one.name[1] in three]) <= 1
    everything = suggest(str(store.scores), 50, activations=str(store.activations))
    assert len(everything.asked) == 15
    assert "only 15 images can be asked, not 50" in everything.notices
    last = [one.name[1] in three for one in everything.asked]
    assert sum(last) == 3
    without = suggest(str(store.scores), 6)
    assert without.spread == "scores"
    assert "give --activations to compare embeddings" in without.notices[-1]


def test_mistakes_are_sentences(tmp_path, store) -> None:
    scores = np.random.default_rng(0).random((4, 2, 1))
    run = write_run(tmp_path / "run", scores)
    assert store.encode().returncode == 0
    with pytest.raises(UserError, match="give the activations of the same archive"):
        suggest(run, 3, activations=str(store.activations))
    labels = tmp_path / "labels.csv"
    rows = [f"a.tar,{k}.png,p{k},pool," for k in range(4)]
    labels.write_text("\n".join(["archive,member,patient_id,split,labels", *rows]) + "\n")
    with pytest.raises(UserError, match="is labelled already"):
        suggest(run, 3, labels=str(labels))
    units = sorted(tables.done_units(run))
    tables.remove_units(run, units[:1])
    assert "is not finished" in suggest(run, 1).notices[0]
    tables.remove_units(run, units)
    with pytest.raises(UserError, match="has no scores yet"):
        suggest(run, 1)


def test_categories_with_few_labels_are_asked_for_first(tmp_path) -> None:
    scores = np.random.default_rng(0).random((40, 2, 1))
    run = write_run(tmp_path / "run", scores)
    labels = tmp_path / "labels.csv"
    rows = [f"a.tar,{k}.png,p{k},pool,two" for k in range(9)]
    rows += [f"a.tar,{k}.png,p{k},test,one" for k in range(9, 15)]
    labels.write_text("\n".join(["archive,member,patient_id,split,labels", *rows]) + "\n")
    found = suggest(run, 9, labels=str(labels))
    assert {one.category for one in found.asked} == {"one"}, "the test split is not for training"
    assert not {one.name[1] for one in found.asked} & {f"{k}.png" for k in range(15)}
    assert found.labelled == 15
    few = [f"a.tar,{k}.png,p{k},pool,{'one;two' if k < 5 else ''}" for k in range(7)]
    labels.write_text("\n".join(["archive,member,patient_id,split,labels", *few]) + "\n")
    found = suggest(run, 9, labels=str(labels))
    kinds = [one.category for one in found.asked]
    assert [kinds.count(name) for name in ("one", "two", "normal")] == [3, 3, 3]
    for one in found.asked:
        given = dict(zip(("one", "two"), scores[int(one.name[1][:-4]), :, 0], strict=True))
        right = given.get(one.category, 1 - max(given.values()))
        assert one.score == pytest.approx(right)


def test_images_for_calibration_are_drawn_whatever_their_scores(tmp_path) -> None:
    """Those with the lowest BLAKE2b of their URIs, without labelled images."""
    rng = np.random.default_rng(0)
    run = write_run(tmp_path / "run", rng.random((40, 2, 1)))
    other = write_run(tmp_path / "other", rng.random((40, 2, 1)))
    drawn = suggest_at_random(run, 12)
    assert [one.name for one in drawn.asked] == [
        one.name for one in suggest_at_random(other, 12).asked
    ]
    few = suggest_at_random(run, 5)
    assert few.asked == drawn.asked[:5]
    assert (few.images, few.labelled, few.spread) == (40, 0, "")
    uris = [str(one.row["uri"]) for one in suggest_at_random(run, 40).asked]
    assert uris == sorted(uris, key=lambda uri: blake2b(uri.encode(), digest_size=6).digest())
    labels = tmp_path / "labels.csv"
    lines = [f"{one.name[0]},{one.name[1]},p,pool," for one in few.asked]
    labels.write_text("\n".join(["archive,member,patient_id,split,labels", *lines]) + "\n")
    rest = suggest_at_random(run, 7, labels=str(labels))
    assert rest.asked == drawn.asked[5:]
    assert rest.labelled == 5
    assert {row["split"] for row in rows_of(rest)} == {"validation"}
    everything = suggest_at_random(run, 50, labels=str(labels))
    assert "only 35 images can be asked, not 50" in everything.notices
