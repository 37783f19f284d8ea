"""Parquet shards: columns of images and names, parts, damage."""

import io

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdmad import storage
from sdmad.archive import parquets
from sdmad.archive.listing import list_archive
from sdmad.archive.members import read_members, read_unit
from sdmad.archive.units import cut_units
from sdmad.scoring.verify import verify_scores
from tests.helpers import encoded


def table(rows: int, names: bool = True) -> pa.Table:
    """As Hugging Face datasets write images."""
    images = [
        {"bytes": encoded(k % 255), "path": f"{k}.png" if names else None} for k in range(rows)
    ]
    return pa.table({"label": [0] * rows, "image": images})


def write(uri: str, content: pa.Table, **options: object) -> None:
    sink = io.BytesIO()
    pq.write_table(content, sink, **options)
    storage.write_bytes(uri, sink.getvalue())


def read(base: str) -> list[tuple[str, str, bytes | None, str]]:
    units = cut_units(base, list_archive(base))
    return [(m.archive, m.name, m.content, m.reason) for u in units for m in read_unit(u)]


@pytest.mark.parametrize("where", ["local", "s3"])
def test_structs_of_bytes_and_path_are_images_with_names(tmp_path, s3, where) -> None:
    base = str(tmp_path) if where == "local" else f"{s3}/parquet-{tmp_path.name}"
    write(f"{base}/d/s.parquet", table(40), row_group_size=7)
    expected = [("d/s.parquet", f"{k}.png", encoded(k), "") for k in range(40)]
    assert read(base) == expected
    wanted = [("d/s.parquet", "30.png"), ("d/s.parquet", "none.png")]
    assert read_members(base, wanted) == {("d/s.parquet", "30.png"): encoded(30)}


def test_a_column_of_bytes_with_a_column_of_names(tmp_path) -> None:
    content = pa.table({"thumb": [b"-"] * 2, "image": [encoded(1), None], "path": ["a", ""]})
    write(str(tmp_path / "s.parquet"), content)
    assert read(str(tmp_path)) == [
        ("s.parquet", "a", encoded(1), ""),
        ("s.parquet", "row=1", None, "the row has no image"),
    ]


def test_rows_without_names_are_numbered_across_the_file(tmp_path) -> None:
    write(str(tmp_path / "s.parquet"), table(5, names=False), row_group_size=2)
    assert [row[1] for row in read(str(tmp_path))] == [f"row={k}" for k in range(5)]


def test_a_table_without_images_is_a_sidecar(tmp_path) -> None:
    write(str(tmp_path / "labels.parquet"), pa.table({"uri": ["x"], "labels": [""]}))
    storage.write_bytes(str(tmp_path / "x.png"), encoded())
    assert [row[1] for row in read(str(tmp_path))] == ["x.png"]
    assert verify_scores(str(tmp_path), str(tmp_path / "out")).images == 1


def test_several_columns_of_bytes_have_a_reason_that_names_them(tmp_path) -> None:
    write(str(tmp_path / "s.parquet"), pa.table({"left": [b"1"], "right": [b"2"]}))
    ((_, name, content, reason),) = read(str(tmp_path))
    assert (name, content) == ("", None)
    assert "several columns of bytes (left, right)" in reason


def test_a_large_table_is_cut_into_units_of_whole_row_groups(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(parquets, "PART_ROWS", 20)
    write(str(tmp_path / "s.parquet"), table(50), row_group_size=8)
    units = list(cut_units(str(tmp_path), list_archive(str(tmp_path))))
    assert [unit.part for unit in units] == [(0, 3), (3, 6), (6, 7)]
    assert len({unit.id for unit in units}) == 3
    assert [m.name for u in units for m in read_unit(u)] == [f"{k}.png" for k in range(50)]


def test_a_damaged_row_group_loses_only_its_own_images(tmp_path) -> None:
    path = tmp_path / "s.parquet"
    write(str(path), table(40), row_group_size=10, use_dictionary=False, compression="snappy")
    content = bytearray(path.read_bytes())
    column = pq.ParquetFile(path).metadata.row_group(1).column(1)
    start = column.data_page_offset
    content[start + 60 : start + 300] = b"\xff" * 240
    path.write_bytes(content)
    rows = read(str(tmp_path))
    assert [row[1] for row in rows] == [f"{k}.png" for k in range(40)]
    assert all(row[2] for row in rows[:10] + rows[20:])
    assert not any(row[2] for row in rows[10:20])
    assert "damaged" in rows[12][3]
    assert verify_scores(str(tmp_path), str(tmp_path / "out")).images == 40


def test_a_truncated_file_has_one_reason_and_is_reported_by_verification(tmp_path) -> None:
    path = tmp_path / "a" / "s.parquet"
    write(str(path), table(5))
    path.write_bytes(path.read_bytes()[:-20])
    ((_, name, content, reason),) = read(str(path.parent))
    assert (name, content) == ("", None)
    assert "breaks off" in reason
    assert verify_scores(str(path.parent), str(tmp_path / "out")).broken == ["s.parquet"]


BYTES = [encoded(k, (40, 30)) for k in range(3)]
PIXELS = [list(content) for content in BYTES]
WIDEST = max(map(len, BYTES))
PADDED = [content.ljust(WIDEST, b"\0") for content in BYTES]


@pytest.mark.parametrize(
    "column",
    [
        pa.array(BYTES, pa.binary()),
        pa.array(BYTES, pa.large_binary()),
        pa.array(BYTES, pa.binary_view()),
        pa.array(BYTES, pa.binary()).dictionary_encode(),
        pa.array(BYTES, pa.large_binary()).dictionary_encode(),
        pa.array(PADDED, pa.binary(WIDEST)),
        pa.array(PIXELS, pa.list_(pa.uint8())),
        pa.array(PIXELS, pa.large_list(pa.uint8())),
        pa.array([list(c) for c in PADDED], pa.list_(pa.uint8(), WIDEST)),
        pa.array([[x - 256 * (x > 127) for x in c] for c in PIXELS], pa.list_(pa.int8())),
        pa.array([{"bytes": c} for c in BYTES], pa.struct([("bytes", pa.large_binary())])),
        pa.array([{"data": c} for c in PIXELS], pa.struct([("data", pa.list_(pa.uint8()))])),
    ],
    ids=lambda column: str(column.type)[:40],
)
@pytest.mark.parametrize("name", ["image", "Photo"])
def test_every_type_of_bytes_is_read(tmp_path, column, name) -> None:
    empty = pa.array([None], column.type) if not pa.types.is_dictionary(column.type) else None
    column = pa.concat_arrays([column, empty]) if empty is not None else column
    write(str(tmp_path / "s.parquet"), pa.table({"n": range(len(column)), name: column}))
    rows = read(str(tmp_path))
    assert [row[1] for row in rows] == [f"row={k}" for k in range(len(column))]
    assert [row[2][: len(c)] for row, c in zip(rows, BYTES, strict=False)] == BYTES
    assert all(row[2].rstrip(b"\0") == c.rstrip(b"\0") for row, c in zip(rows, BYTES, strict=False))
    assert [row[3] for row in rows[3:]] == ["the row has no image"] * (len(column) - 3)


@pytest.mark.parametrize(
    "names",
    [
        pa.array(["a", "ü", None], pa.large_string()),
        pa.array(["a", "ü", None], pa.string_view()),
        pa.array(["a", "ü", None]).dictionary_encode(),
        pa.array([b"a", "ü".encode(), None], pa.binary()),
    ],
    ids=lambda names: str(names.type)[:40],
)
def test_every_type_of_text_is_a_name(tmp_path, names) -> None:
    image = pa.array(BYTES, pa.binary())
    write(str(tmp_path / "s.parquet"), pa.table({"File_Name": names, "image": image}))
    assert [row[1:3] for row in read(str(tmp_path))] == [
        ("a", BYTES[0]),
        ("ü", BYTES[1]),
        ("row=2", BYTES[2]),
    ]
    found = read_members(str(tmp_path), [("s.parquet", "u\u0308"), ("s.parquet", "./a")])
    assert found == {("s.parquet", "u\u0308"): BYTES[1], ("s.parquet", "./a"): BYTES[0]}


def test_pandas_writes_shards(tmp_path) -> None:
    pd.DataFrame({"path": ["a", "b"], "image": BYTES[:2]}).to_parquet(tmp_path / "s.parquet")
    assert [row[1:3] for row in read(str(tmp_path))] == [("a", BYTES[0]), ("b", BYTES[1])]


def test_a_name_column_helps_where_the_struct_has_no_path(tmp_path) -> None:
    images = [{"bytes": BYTES[0], "path": None}, {"bytes": BYTES[1], "path": "p"}]
    content = pa.table({"image": images, "file_name": ["f", "g"]})
    write(str(tmp_path / "s.parquet"), content)
    assert [row[1] for row in read(str(tmp_path))] == ["f", "p"]


def test_hashes_and_lists_beside_a_column_of_bytes_are_not_images(tmp_path) -> None:
    content = pa.table(
        {
            "sha256": pa.array([bytes(32)], pa.binary(32)),
            "embedding": pa.array([[1, 2]], pa.list_(pa.uint8())),
            "scan": pa.array([BYTES[0]], pa.binary()),
            "path": pa.array([b"a"], pa.binary()),
        }
    )
    write(str(tmp_path / "s.parquet"), content)
    assert [row[1:3] for row in read(str(tmp_path))] == [("a", BYTES[0])]


@pytest.mark.parametrize(
    ("column", "kind"),
    [
        (pa.array([[{"bytes": b"1"}, {"bytes": b"2"}]]), "list<element: struct<bytes: binary>>"),
        (pa.array([[b"1", b"2"]]), "list<element: binary>"),
        (pa.array([[1, 2]], pa.list_(pa.float32())), "list<element: float>"),
    ],
)
def test_images_of_another_type_have_a_reason(tmp_path, column, kind) -> None:
    write(str(tmp_path / "s.parquet"), pa.table({"images": column}))
    ((_, name, content, reason),) = read(str(tmp_path))
    assert (name, content) == ("", None)
    assert f"the column images is of type {kind}, which is not read" in reason


def test_several_images_in_a_row_are_not_replaced_by_another_column(tmp_path) -> None:
    content = pa.table({"images": [[BYTES[0], BYTES[1]]], "thumb": pa.array(BYTES[:1])})
    write(str(tmp_path / "s.parquet"), content)
    ((_, name, content, reason),) = read(str(tmp_path))
    assert (name, content) == ("", None)
    assert "the column images is of type list<element: binary>, which is not read" in reason


def test_fields_in_capitals_and_extension_types_are_read(tmp_path) -> None:
    opaque = pa.opaque(pa.binary(), "photo", "somewhere")
    column = pa.ExtensionArray.from_storage(opaque, pa.array(BYTES, pa.binary()))
    write(str(tmp_path / "a.parquet"), pa.table({"scan": column, "Path": ["a", "b", None]}))
    structs = [{"Bytes": content, "PATH": f"{k}"} for k, content in enumerate(BYTES)]
    write(str(tmp_path / "b.parquet"), pa.table({"Photo": structs}))
    names = ["a", "b", "row=2", "0", "1", "2"]
    assert [row[1:3] for row in read(str(tmp_path))] == list(zip(names, BYTES * 2, strict=True))
