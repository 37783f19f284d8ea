"""How labelled images are divided among readers."""

from sdmad.fitting import reading


def test_loose_images_are_read_in_groups_and_shards_once_each(monkeypatch) -> None:
    monkeypatch.setattr(reading, "LOOSE_IMAGES_PER_TASK", 4)
    loose = [("", f"{k}.png") for k in range(10)]
    shards = [(f"{s}.tar", f"{k}.png") for s in "ab" for k in range(9)]
    groups = reading.groups([*shards, *loose, *loose])
    assert [len(group) for group in groups] == [9, 9, 4, 4, 2]
    assert sorted(image for group in groups for image in group) == sorted([*shards, *loose])
    assert all(len({archive for archive, _ in group}) == 1 for group in groups)
