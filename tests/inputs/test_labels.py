import pandas as pd
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
            "row 2: no category of the catalog is called 'nose'",
        ),
        (HEADER + "a.tar,1.png,1,train,,\n", "row 2: split is 'train'"),
        (
            HEADER + "a.tar,1.png,1,pool,,\na.tar,1.png,1,pool,,\n",
            "row 3: 1.png is listed twice",
        ),
        ("archive,member,split,labels\n", "no column 'patient_id'"),
    ],
)
def test_errors_name_row_and_value(tmp_path, text, message) -> None:
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
