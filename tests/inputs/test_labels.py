import codecs
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sdmad.errors import UserError
from sdmad.inputs.labels import load_labels

HEADER = "archive,member,patient_id,split,labels,report\n"


def write(tmp_path, text: str) -> str:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return str(path)


def test_labels_are_read_and_other_columns_ignored(tmp_path) -> None:
    uri = write(tmp_path, HEADER + "a.tar,1.png,7,pool,x;y,free text\na.tar,2.png,8,test,,\n")
    table = load_labels(uri, ["x", "y", "z"])
    assert table.labels.tolist() == [[True, True, False], [False] * 3]
    assert table.patient.tolist() == ["7", "8"]
    assert table.split.tolist() == ["pool", "test"]


def test_masks_are_a_column_that_may_be_left_out(tmp_path) -> None:
    without = load_labels(write(tmp_path, HEADER + "a.tar,1.png,7,pool,x,\n"), ["x"])
    assert without.masks is None
    assert without.where(np.array([True])).masks is None
    lines = "member,patient_id,split,labels,mask\n1.png,7,test,x,m/1.png\n2.png,8,test,,\n"
    with_masks = load_labels(write(tmp_path, lines), ["x"])
    assert with_masks.masks.tolist() == ["m/1.png", ""]
    assert with_masks.where(np.array([0])).masks.tolist() == ["m/1.png"]
    plain = "member,patient_id,split,labels\n1.png,7,test,x\n2.png,8,test,\n"
    same = load_labels(write(tmp_path, plain), ["x"])
    assert with_masks.digest == same.digest, "training does not use masks"


def test_parquet_is_read_like_csv(tmp_path) -> None:
    path = tmp_path / "labels.parquet"
    row = {"archive": "a.tar", "member": "1.png", "patient_id": 7, "split": "pool", "labels": None}
    pd.DataFrame([row]).to_parquet(path)
    table = load_labels(str(path), ["x"])
    assert table.patient.tolist() == ["7"]
    assert not table.labels.any()


def test_uris_are_split_into_archive_and_member(tmp_path) -> None:
    text = "uri,patient_id,split,labels\ns3://b/p/s.tar#1.png,1,pool,\ns3://b/p/d/2.png,2,test,x\n"
    table = load_labels(write(tmp_path, text), ["x"], "s3://b/p")
    assert list(zip(table.archive, table.member, strict=True)) == [
        ("s.tar", "1.png"),
        ("", "d/2.png"),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            HEADER + "a.tar,1.png,1,pool,nose,\n",
            "line 2: no category of the catalog is called 'nose'; .*; add it to the catalog, or "
            "remove the row",
        ),
        (HEADER + "a.tar,1.png,1,train,,\n", "line 2: split is 'train'"),
        (
            HEADER + "a.tar,1.png,1,pool,,\na.tar,1.png,1,pool,,\n",
            "line 3: 1.png is listed twice",
        ),
        ("archive,member,split,labels\n", "no column 'patient_id'"),
    ],
)
def test_errors_name_line_and_value(tmp_path, text, message) -> None:
    with pytest.raises(UserError, match=message):
        load_labels(write(tmp_path, text), ["x"])


def test_the_error_for_a_missing_table_names_it(tmp_path) -> None:
    with pytest.raises(UserError, match="there is no label table"):
        load_labels(str(tmp_path / "none.csv"), ["x"])


def test_uris_of_the_score_tables_are_accepted(tmp_path) -> None:
    from sdmad.archive.naming import image_uri

    uri = image_uri("s3://b/p/s.tar", "x y#1.png")
    text = f"uri,patient_id,split,labels\n{uri},1,pool,\ns3://b/p/a#b.png,2,pool,\n"
    table = load_labels(write(tmp_path, text), ["x"], "s3://b/p")
    assert list(zip(table.archive, table.member, strict=True)) == [
        ("s.tar", "x y#1.png"),
        ("", "a#b.png"),
    ]


def test_nullable_columns_of_parquet_are_read(tmp_path) -> None:
    path = tmp_path / "labels.parquet"
    frame = pd.DataFrame(
        {"member": ["1", "2"], "patient_id": ["a", "b"], "split": "pool", "labels": ["x", None]}
    )
    frame["age"] = pd.array([70, None], "Int64")
    frame.to_parquet(path)
    assert load_labels(str(path), ["x"]).labels.tolist() == [[True], [False]]


PLAIN = "archive,member,patient_id,split,labels\n"
TWO = PLAIN + "s.tar,a.png,1,pool,effusion\ns.tar,b.png,2,test,\n"


def load(tmp_path: Path, content: str | bytes):
    path = tmp_path / "labels.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_labels(str(path), ["effusion", "nodule"])


def rows(table) -> list[tuple[str, str, str, str, list[str]]]:
    names = [[c for c, y in zip(table.categories, row, strict=True) if y] for row in table.labels]
    columns = (table.archive, table.member, table.patient, table.split)
    return list(zip(*(c.tolist() for c in columns), names, strict=True))


RIGHT = [("s.tar", "a.png", "1", "pool", ["effusion"]), ("s.tar", "b.png", "2", "test", [])]


@pytest.mark.parametrize(
    "content",
    [
        TWO,
        TWO.removesuffix(",\n") + ',""',
        TWO.replace("\n", "\r\n"),
        TWO.replace("\n", "\r"),
        codecs.BOM_UTF8 + TWO.encode(),
        TWO.encode("utf-16"),
        codecs.BOM_UTF16_BE + TWO.encode("utf-16-be"),
        TWO.encode("utf-32"),
        TWO.replace(",", "\t"),
        "\n\n" + TWO.replace("\n", "\n\n") + "\n  \n,,,,\n",
        TWO.replace("archive", " Archive ").replace("patient_id", "Patient ID"),
        TWO.replace(",", " , "),
        TWO.replace("effusion", '" effusion ; "'),
        TWO.replace("\n", ",\n"),
        TWO.replace("\n", ",,\n"),
        TWO.replace("labels\n", "labels,note\n").replace("effusion\n", 'effusion,"a\nb, c"\n')[:-1]
        + ",\n",
    ],
    ids=[
        *("plain", "quoted end", "crlf", "cr", "utf-8 mark", "utf-16", "utf-16-be", "utf-32"),
        *("tabs", "empty lines", "header", "spaces", "spaces in labels", "column without name"),
        *("two columns without name", "note"),
    ],
)
def test_forms_of_csv_that_are_read(tmp_path, content) -> None:
    assert rows(load(tmp_path, content)) == RIGHT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TWO[:-2], "line 3: the number of fields is 4, but the first line names 5 columns.*cut"),
        (TWO[:-1], "line 3: the file ends after a separator"),
        (PLAIN + "s.tar,a.png,1,pool,effusion;", "line 2: the file ends after a separator"),
        (TWO.replace("effusion", "effusion,"), "line 2: .* is 6.*commas at its end"),
        (
            TWO.replace("effusion", "effusion,nodule"),
            "line 2: .* is 6.*quotation",
        ),
        (
            TWO.replace("labels\n", "labels,\n").replace("effusion", "effusion,nodule")[:-1]
            + ",\n",
            "line 2: 'nodule' is in a column without a name",
        ),
        (TWO.replace("a.png,1,pool,effusion", '"a.png,1,pool,effusion'), "line 2: .*quotation"),
        (
            TWO.replace("pool,effusion\n", '"pool,effusion\n').replace(",test", '",test'),
            "line 2: the number of fields is 6.*check the quotation marks",
        ),
        (
            TWO.replace("1,pool", '"1,pool').replace(",test", '",test'),
            "line 2: patient_id contains a line break",
        ),
        (TWO.replace("a.png", '"a\n.png"'), "line 2: member contains a line break"),
        (TWO.replace("a.png", '"a" b.png'), "line 2: .*quotation"),
        (TWO.replace(",", ";"), "semicolons between its fields"),
        (TWO.replace("a.png", "\xe9.png").encode("cp1252"), "line 2: byte 0xe9 is not UTF-8"),
        (TWO.encode("utf-16-le"), "line 1: there is a NUL.*UTF-16 needs a byte order mark"),
        (TWO.replace("member", "member ,Member"), "has 2 columns 'member'"),
        ("# made by hand\n" + TWO, "line 1: '# made by hand' is not a list of columns"),
        (TWO + "# the end\n", "line 4: .*remove comment lines"),
        ("", "is empty"),
        (b"PK\x03\x04....", "spreadsheet"),
        (b"\x1f\x8b....", "compressed"),
        (TWO.replace("patient_id", "patient"), "no column 'patient_id' .is 'patient' meant"),
        (TWO.replace("effusion", "Effusion"), "line 2: .*'Effusion'; is 'effusion' meant"),
        (TWO.replace("effusion", '"effusion, nodule"'), "separate categories with ;"),
        (TWO.replace("effusion", "normal"), "leave labels empty for a normal image"),
        (TWO.replace("effusion", "nan"), "leave labels empty for a normal image"),
        (TWO.replace("effusion", "Normal"), "leave labels empty for a normal image"),
        (TWO.replace("effusion", "No Finding"), "leave labels empty for a normal image"),
        (TWO.replace("effusion", "no_abnormality"), "leave labels empty for a normal image"),
        (TWO.replace("1,pool", ",pool"), "line 2: patient_id is ''"),
        (TWO.replace("1,pool", "NaN,pool"), "line 2: patient_id is 'NaN'"),
        (TWO.replace("b.png", " "), "line 3: the name of the image is missing"),
        (TWO.replace("b.png", "./a.png"), "line 3: ./a.png is listed twice, first in line 2"),
        (TWO.replace("pool", "Pool"), "line 2: split is 'Pool'"),
    ],
)
def test_damaged_and_ambiguous_csv_is_refused_with_its_line(tmp_path, content, message) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, content)


def test_one_patient_is_one_text(tmp_path) -> None:
    """Spaces and Unicode forms differ between the rows; spaces within a value are kept."""
    name = "M\u00fcller A"
    text = PLAIN + f"s.tar, a b.png,{name} ,pool,\ns.tar,b.png,"
    text += unicodedata.normalize("NFD", name) + ",test,\n"
    table = load(tmp_path, text)
    assert table.patient.tolist() == [name, name]
    assert table.member.tolist() == ["a b.png", "b.png"]


@pytest.mark.parametrize(
    "columns",
    [
        {"labels": pa.array([["effusion"], []])},
        {"labels": pa.array([["effusion", None], None], pa.large_list(pa.large_string()))},
        {"labels": pa.array(["effusion", None]).dictionary_encode()},
        {"member": pa.array(["a.png", "b.png"]).dictionary_encode()},
        {"member": pa.array(["a.png", "b.png"], pa.large_string())},
        {"member": pa.array([b"a.png", b"b.png"])},
        {"patient_id": pa.array([1, 2], pa.int8())},
        {"patient_id": pa.array([1.0, 2.0])},
        {"split": pa.array(["pool ", "test"])},
        {"labels": pa.array(["effusion", ""], pa.string_view())},
    ],
)
def test_forms_of_parquet_that_are_read(tmp_path, columns) -> None:
    plain = {
        "archive": pa.array(["s.tar"] * 2),
        "member": pa.array(["a.png", "b.png"]),
        "patient_id": pa.array(["1", "2"]),
        "split": pa.array(["pool", "test"]),
        "labels": pa.array(["effusion", None]),
    }
    pq.write_table(pa.table(plain | columns), tmp_path / "labels.parquet")
    assert rows(load_labels(str(tmp_path / "labels.parquet"), ["effusion", "nodule"])) == RIGHT


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"labels": [True, False]}, "row 1: labels is True"),
        ({"labels": [1, 0]}, "row 1: no category of the catalog is called '1'"),
        ({"patient_id": [1.0, np.nan]}, "row 2: patient_id is ''"),
        ({"patient_id": ["1", None]}, "row 2: patient_id is ''"),
        ({"member": [None, "b.png"]}, "row 1: the name of the image is missing"),
        ({"labels": [{"a": 1}, None]}, "row 1: labels is a struct"),
    ],
)
def test_parquet_that_says_no_category_or_patient_is_refused(tmp_path, columns, message) -> None:
    plain = {"member": ["a.png", "b.png"], "patient_id": ["1", "2"], "split": "pool", "labels": ""}
    pd.DataFrame(plain | columns).to_parquet(tmp_path / "labels.parquet")
    with pytest.raises(UserError, match=message):
        load_labels(str(tmp_path / "labels.parquet"), ["effusion"])


def test_a_file_that_is_no_parquet_is_refused(tmp_path) -> None:
    (tmp_path / "labels.PARQUET").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        load_labels(str(tmp_path / "labels.PARQUET"), ["effusion"])


def test_a_whole_uri_of_a_shard_is_relative_to_the_archive(tmp_path) -> None:
    text = TWO.replace("s.tar", "s3://b/p/s.tar")
    (tmp_path / "labels.csv").write_text(text)
    table = load_labels(str(tmp_path / "labels.csv"), ["effusion", "nodule"], "s3://b/p")
    assert rows(table) == RIGHT


def test_images_that_wait_for_their_labels_are_not_normal(tmp_path) -> None:
    head = "member,patient_id,split,labels,labelled\n"
    uri = write(tmp_path, head + "1.png,7,pool,x,no\n2.png,8,pool,,no\n3.png,9,pool, ;,No\n")
    with pytest.raises(UserError) as caught:
        load_labels(uri, ["x"])
    assert "line 3: the image is not labelled yet (2 rows of 3 have" in str(caught.value)
    done = load_labels(write(tmp_path, head + "1.png,7,pool,x,no\n2.png,8,pool,,yes\n"), ["x"])
    assert done.labels.tolist() == [[True], [False]]
    plain = "member,patient_id,split,labels\n1.png,7,pool,x\n2.png,8,pool,\n"
    assert load_labels(write(tmp_path, plain), ["x"]).digest == done.digest
