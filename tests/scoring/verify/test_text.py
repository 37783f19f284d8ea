"""The words of a verdict."""

from collections import Counter

from sdmad.scoring.verify.text import SHOWN, lines
from sdmad.scoring.verify.verdict import MOST_NAMES, Verdict


def test_only_the_first_names_are_shown_and_the_others_counted() -> None:
    verdict = Verdict(images=5000)
    for k in range(MOST_NAMES + 100):
        verdict.add("lost", ("s.tar", f"{k}.png"))
    shown = list(lines(verdict))
    assert shown[0].startswith("5,000 images in the archive, 0 scored, 0 failures, 1,100 lost, ")
    assert shown[1] == "  lost: s.tar/0.png"
    assert shown[SHOWN + 1 :] == [f"  lost: {MOST_NAMES + 100 - SHOWN:,} more"]


def test_what_was_left_out_is_counted_by_kind_and_suffix() -> None:
    verdict = Verdict()
    verdict.left_out = Counter(
        {("sidecars", ".json"): 4000, ("sidecars", ".txt"): 12, ("hidden files", ""): 3}
    )
    verdict.add("suspects", ("", "scan.npz"))
    assert list(lines(verdict))[1:] == [
        "left out: 3 hidden files, 4,012 sidecars (4,000 .json, 12 .txt)",
        "  left out by its name, but begins like an image: scan.npz",
    ]
    verdict.left_out = Counter({("sidecars", ".csv"): 1})
    assert "left out: 1 sidecar (1 .csv)" in list(lines(verdict))


def test_changes_of_the_archive_are_named() -> None:
    verdict = Verdict()
    verdict.add("unscored", "new.tar", 2)
    verdict.add("gone", "old.tar", 1)
    verdict.add("changed", "s.tar")
    verdict.add("renamed", ("old.tar", "now.tar"))
    assert not verdict.passed
    assert list(lines(verdict))[1:] == [
        "  not scored yet: new.tar (2 images)",
        "  changed since it was planned: s.tar",
        "  the score job scores these again with --accept-changes",
        "  no longer in the archive, but in the tables: old.tar (1 row)",
        "  renamed, so that its images are in the tables twice: old.tar is called now.tar now",
        "  the score job removes these rows with --prune",
    ]
