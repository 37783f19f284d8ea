"""The coloured cells of the report's heatmaps."""

import numpy as np

from sdmad.report.decisions import confusion
from sdmad.report.heatmaps import confusion_heatmap, sign_heatmap


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[k : k + 2], 16) for k in (1, 3, 5))


def test_signs_are_red_where_they_separate_and_framed_where_listed() -> None:
    auroc = np.array([[0.8, 0.3, 0.45], [0.5, 0.5, np.nan]])
    membership = np.array([[True, False, False], [False, False, True]])
    shown = sign_heatmap(auroc, membership, ["streaks", "haze"], ["a", "b", "c"])
    first, second = shown.cells
    assert [cell.text for cell in first] == ["80", "30", "45"]
    red, _, blue = rgb(first[0].colour)
    assert red > blue + 50
    red, _, blue = rgb(first[1].colour)
    assert blue > red + 20
    assert [cell.framed for cell in first] == [True, False, False]
    assert [cell.text for cell in second] == ["50", "50", "-"]
    assert second[2].framed


def test_confusion_frames_the_correct_results_in_legible_colours() -> None:
    truth = np.repeat(np.array([[False, False], [True, False], [False, True]]), [5, 5, 3], axis=0)
    shown = confusion_heatmap(confusion(truth, truth), ["a", "b"])
    assert shown.rows == ["normal (5)", "a (5)", "b (3)"]
    assert shown.columns == ["a", "b", "no finding"]
    framed = [[cell.framed for cell in row] for row in shown.cells]
    assert framed == [[False, False, True], [True, False, False], [False, True, False]]
    assert [cell.text for cell in shown.cells[0]] == ["0", "0", "100"]
    assert [cell.text for cell in shown.cells[2]] == ["-"] * 3, "too few images"
    for cell in (cell for row in shown.cells for cell in row):
        contrast = abs(sum(rgb(cell.colour)) - sum(rgb(cell.ink)))
        assert contrast > 250, f"{cell.ink} on {cell.colour}"
