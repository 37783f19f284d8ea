import tarfile
from pathlib import Path

import pandas as pd
import pytest

from sdmad import storage
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.selected import decode_members
from sdmad.errors import UserError
from sdmad.recipes.archive_writer import write_archive
from sdmad.recipes.records import Record
from tests.recipes.trees import image


def make(folder: Path, count: int) -> list[Record]:
    """`count` images, each of another patient; every third is normal, the second half is test."""
    return [
        Record(
            path=image(folder / f"{k}.png"),
            member=f"x/{k}.png",
            patient_id=str(k),
            split="test" if k >= count // 2 else "pool",
            labels=("one", "two")[: k % 3],
        )
        for k in range(count)
    ]


def test_shards_contain_the_files_unchanged_at_the_names_in_the_table(tmp_path) -> None:
    records = make(tmp_path / "source", 5)
    target = tmp_path / "archive"
    tally = write_archive(records, str(target), "small", shard_images=2)
    assert sorted(p.name for p in target.iterdir()) == [
        "labels.csv",
        "small-00000.tar",
        "small-00001.tar",
        "small-00002.tar",
    ]
    table = pd.read_csv(target / "labels.csv", dtype=str, keep_default_na=False)
    assert list(table.columns) == ["archive", "member", "patient_id", "split", "labels"]
    assert table["labels"].tolist() == ["", "one", "one;two", "", "one"]
    for record, row in zip(records, table.itertuples(), strict=True):
        with tarfile.open(target / row.archive) as tar:
            assert tar.extractfile(row.member).read() == record.path.read_bytes()
    assert tally.shards == 3


def test_images_of_the_archive_can_be_decoded(tmp_path) -> None:
    target = str(tmp_path / "archive")
    write_archive(make(tmp_path / "source", 3), target, "small")
    images = [("small-00000.tar", f"x/{k}.png") for k in range(3)]
    spec = ImageSpec(size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
    pixels, problems = decode_members(target, images, spec)
    assert not problems
    assert len(pixels) == 3


def test_a_shard_keeps_its_limit_of_bytes_and_a_larger_image_has_its_own(tmp_path) -> None:
    records = make(tmp_path / "source", 4)
    records[2].path.write_bytes(bytes(5000))
    length = records[0].path.stat().st_size
    write_archive(records, str(tmp_path / "a"), "small", shard_bytes=2 * length + 20)
    table = pd.read_csv(tmp_path / "a/labels.csv")
    assert table["archive"].tolist() == [f"small-0000{k}.tar" for k in (0, 0, 1, 2)]


def test_the_same_records_give_the_same_bytes(tmp_path) -> None:
    records = make(tmp_path / "source", 3)
    for name in ("a", "b"):
        write_archive(records, str(tmp_path / name), "small")
    first, second = (
        {p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("a", "b")
    )
    assert first == second


def test_images_left_out_are_counted_and_not_written(tmp_path) -> None:
    records = make(tmp_path / "source", 4)
    records.append(Record(tmp_path / "gone.png", "gone.png", "9", "pool", (), "not there"))
    tally = write_archive(records, str(tmp_path / "a"), "small")
    assert tally.left_out == {"not there": 1}
    assert tally.images == {"pool": 2, "test": 2}
    assert tally.labels["test", "two"] == 1
    assert tally.labels["pool", "normal"] == 1
    assert {split: len(ids) for split, ids in tally.patients.items()} == {"pool": 2, "test": 2}
    assert "gone.png" not in (tmp_path / "a/labels.csv").read_text()


def test_only_one_shard_is_in_memory(tmp_path, monkeypatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(storage, "write_bytes", lambda uri, content: written.append(uri))
    reached: list[int] = []

    def stream():
        for record in make(tmp_path / "source", 6):
            reached.append(len(written))
            yield record

    write_archive(stream(), str(tmp_path / "a"), "small", shard_images=2)
    assert reached == [0, 0, 0, 1, 1, 2], "a shard is written before the next one is collected"


def test_an_archive_is_not_written_over_another(tmp_path) -> None:
    records = make(tmp_path / "source", 2)
    write_archive(records, str(tmp_path / "a"), "small")
    with pytest.raises(UserError, match="is not empty"):
        write_archive(records, str(tmp_path / "a"), "small")


def test_the_label_table_is_written_last(tmp_path, monkeypatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(storage, "write_bytes", lambda uri, content: names.append(uri))
    write_archive(make(tmp_path / "source", 3), str(tmp_path / "a"), "small", shard_images=1)
    assert names[-1].endswith("labels.csv")
    assert len(names) == 4


def test_s3_is_written_like_a_folder(tmp_path, s3) -> None:
    records = make(tmp_path / "source", 3)
    write_archive(records, f"{s3}/recipes/small", "small", shard_images=2)
    write_archive(records, str(tmp_path / "a"), "small", shard_images=2)
    for path in (tmp_path / "a").iterdir():
        assert storage.read_bytes(f"{s3}/recipes/small/{path.name}") == path.read_bytes()
