"""Numbers with nouns, durations and paths."""

import pytest

from sdmad.words import as_typed, choices, counted, duration, meant


def test_one_thing_has_no_plural() -> None:
    assert [counted(n, "work unit") for n in (0, 1, 2, 12288)] == [
        "0 work units",
        "1 work unit",
        "2 work units",
        "12,288 work units",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119, "119 s"), (600, "10 min"), (12600, "3.5 h"), (864000, "10 days")],
)
def test_a_duration_has_one_unit(seconds, text) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("wrote {here}/runs/x", "wrote runs/x"),
        ("{here}/a and {here}/b c.png, '{here}/d'", "a and b c.png, 'd'"),
        ("zero-shot={here}/runs/z ({here}/x) `{here}/y`", "zero-shot=runs/z (x) `y`"),
        ("model: local-dir:{here}/vit", "model: local-dir:vit"),
        ("no space left at {here}", "no space left at {here}"),
        ("{here}2/x and /data{here}/x", "{here}2/x and /data{here}/x"),
        ("s3:/{here}/x and file://{here}/x", "s3:/{here}/x and file://{here}/x"),
        ("s3://bucket/runs/x, /elsewhere/x", "s3://bucket/runs/x, /elsewhere/x"),
    ],
)
def test_paths_are_shown_relative_to_the_working_directory(
    tmp_path, monkeypatch, text, shown
) -> None:
    here = tmp_path / "my (new) work+"
    here.mkdir()
    monkeypatch.chdir(here)
    assert as_typed(text.format(here=here)) == shown.format(here=here)


def test_paths_stay_where_no_directory_shortens_them(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir("/")
    assert as_typed("wrote /data/x") == "wrote /data/x"
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert as_typed(f"wrote {gone}/x") == f"wrote {gone}/x"


def test_the_nearest_name_is_suggested_and_all_are_listed() -> None:
    assert meant("zero_shot_sign", ["gda", "zero_shot_signs"]) == "is 'zero_shot_signs' meant?"
    assert meant("magic", ["gda"]) == ""
    assert choices("gdaa", ["gda", "coop"], "methods") == (
        "is 'gda' meant? (methods are gda, coop)"
    )
    assert choices("magic", iter(["gda", "coop"]), "methods") == "methods are gda, coop"
