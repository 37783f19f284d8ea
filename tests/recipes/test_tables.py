"""Downloads with a table of labels: ChestX-ray14 and ODIR-5K."""

import sys

import pytest

from sdmad.errors import UserError
from sdmad.recipes.chest_xray import FINDINGS
from sdmad.recipes.chest_xray import convert as chest_xray
from sdmad.recipes.fundus import convert as fundus
from sdmad.recipes.fundus import eye_labels
from sdmad.recipes.registry import find_recipe
from tests.recipes import trees
from tests.recipes.trees import COMMA


def test_chest_findings_patients_and_official_split(tmp_path) -> None:
    records = {r.member: r for r in chest_xray(trees.chest_xray(tmp_path))}
    both = records["00000001_001.png"]
    assert (both.patient_id, both.split) == ("1", "pool")
    assert both.labels == ("cardiomegaly", "emphysema")
    assert records["00000002_000.png"].labels == ()
    assert records["00000003_000.png"].labels == ("oedema", "pleural_thickening", "hernia")
    assert [r.split for r in records.values()] == ["pool"] * 3 + ["test"] * 2 + ["pool"]
    assert both.path.parent.parent.name == "images_001"


def test_chest_images_missing_from_the_download_are_left_out(tmp_path) -> None:
    records = list(chest_xray(trees.chest_xray(tmp_path)))
    assert {r.member: r.left_out for r in records if r.left_out} == {
        "00000005_000.png": "not in the download"
    }


def test_chest_images_in_neither_list_are_left_out(tmp_path) -> None:
    trees.chest_xray(tmp_path)
    (tmp_path / "test_list.txt").write_text("00000003_000.png\n")
    reasons = {r.member: r.left_out for r in chest_xray(tmp_path)}
    assert reasons["00000004_000.png"] == "in neither train_val_list.txt nor test_list.txt"


def test_chest_has_fourteen_findings() -> None:
    assert len(set(FINDINGS.values())) == 14


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("test_list.txt", None, "there is no file test_list.txt"),
        ("Data_Entry_2017.csv", None, "there is no file Data_Entry_2017"),
        ("Data_Entry_2017.csv", "ImageIndex,FindingLabels\n", "has no column 'Image Index'"),
        (
            "Data_Entry_2017.csv",
            trees.CHEST_TABLE.replace("Hernia", "Scoliosis"),
            "row 5: 'Scoliosis' is not one of the 14",
        ),
        (
            "Data_Entry_2017.csv",
            "Image Index,Finding Labels,Patient ID\n9.png,Mass,9\n",
            "there is no image that Data_Entry_2017.csv lists",
        ),
    ],
)
def test_chest_errors_name_what_is_wrong(tmp_path, file, text, message) -> None:
    path = trees.chest_xray(tmp_path) / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UserError, match=message):
        list(chest_xray(tmp_path))


@pytest.mark.parametrize(
    ("keywords", "labels"),
    [
        ("normal fundus", ()),
        (f"normal fundus{COMMA}lens dust", ()),
        ("mild nonproliferative retinopathy", ("diabetic_retinopathy",)),
        ("moderate non proliferative retinopathy", ("diabetic_retinopathy",)),
        ("suspected diabetic retinopathy", ("diabetic_retinopathy",)),
        (
            f"hypertensive retinopathy{COMMA}proliferative diabetic retinopathy",
            ("diabetic_retinopathy", "hypertensive_retinopathy"),
        ),
        (
            "laser spot, severe nonproliferative retinopathy",
            ("diabetic_retinopathy", "other_abnormality"),
        ),
        ("suspected glaucoma", ("glaucoma",)),
        ("wet age-related macular degeneration", ("age_related_macular_degeneration",)),
        ("myopic maculopathy", ("pathological_myopia",)),
        ("maculopathy", ("other_abnormality",)),
        ("drusen", ("other_abnormality",)),
        ("cataract; lens dust", ("cataract",)),
        (f"low image quality{COMMA}maculopathy", ("other_abnormality",)),
        ("low image quality", None),
        (f"lens dust{COMMA}image offset", None),
        ("anterior segment image", None),
        ("no fundus image", None),
        ("", None),
    ],
)
def test_keywords_become_categories_of_an_eye(keywords, labels) -> None:
    assert eye_labels(keywords) == labels


def test_odir_labels_are_per_eye_and_not_per_patient(tmp_path) -> None:
    records = {r.member: r for r in fundus(trees.fundus(tmp_path))}
    assert len(records) == 2 * len(trees.KEYWORDS), "one record per eye, although rows repeat"
    assert records["0_left.jpg"].labels == ("cataract",)
    assert records["0_right.jpg"].labels == ()
    assert records["4_right.jpg"].labels == ("diabetic_retinopathy", "hypertensive_retinopathy")
    assert {m for m, r in records.items() if r.left_out} == {"2_left.jpg", "4_left.jpg"}
    assert all("Training Images" in r.path.parts for r in records.values())


def test_odir_eyes_of_a_patient_are_in_one_split(tmp_path) -> None:
    records = list(fundus(trees.fundus(tmp_path)))
    sides = {(r.patient_id, r.split) for r in records}
    assert len(sides) == len(trees.KEYWORDS)
    assert sum(split == "test" for _, split in sides) == 3


def test_odir_with_one_row_per_patient_gives_the_same_records(tmp_path) -> None:
    expected = list(fundus(trees.fundus(tmp_path)))
    rows = trees.odir_table().splitlines()
    (tmp_path / "full_df.csv").unlink()
    (tmp_path / "data.csv").write_text("\n".join(rows[:1] + rows[1::2]), encoding="utf-8")
    assert list(fundus(tmp_path)) == expected


def test_odir_spreadsheet_gives_the_same_records(tmp_path) -> None:
    pytest.importorskip("openpyxl")
    import pandas as pd

    expected = list(fundus(trees.fundus(tmp_path)))
    table = pd.read_csv(tmp_path / "full_df.csv").drop_duplicates("ID")
    (tmp_path / "full_df.csv").unlink()
    table.to_excel(tmp_path / "data.xlsx", index=False)
    assert list(fundus(tmp_path)) == expected


def test_the_error_without_openpyxl_says_what_to_do(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    trees.fundus(tmp_path)
    (tmp_path / "full_df.csv").unlink()
    (tmp_path / "data.xlsx").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"pip install .*, or save the sheet as data\.csv"):
        list(fundus(tmp_path))


@pytest.mark.parametrize("name", ["data.csv", "data.xlsx"])
def test_odir_tables_that_cannot_be_read_are_refused(tmp_path, name) -> None:
    if name.endswith("xlsx"):
        pytest.importorskip("openpyxl")
    (trees.fundus(tmp_path) / "full_df.csv").unlink()
    (tmp_path / name).write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="cannot be read as a table"):
        list(fundus(tmp_path))


def test_odir_without_keywords_is_refused(tmp_path) -> None:
    trees.fundus(tmp_path)
    text = trees.odir_table().replace("Right-Diagnostic Keywords", "Right")
    (tmp_path / "full_df.csv").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="no column 'Right-Diagnostic Keywords'"):
        list(fundus(tmp_path))


def test_odir_is_refused_if_no_eye_can_be_labelled(tmp_path) -> None:
    trees.fundus(tmp_path)
    rows = [f"{k},60,Male,{k}_left.jpg,{k}_right.jpg,lens dust,image offset" for k in (0, 1)]
    header = ",".join(trees.ODIR_HEADER.split(",")[:7])
    (tmp_path / "full_df.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    with pytest.raises(UserError, match=r"no image of .* can be used; .* ODIR-5K"):
        find_recipe("fundus").records(tmp_path)


def test_odir_images_missing_from_the_download_are_left_out(tmp_path) -> None:
    trees.fundus(tmp_path)
    (tmp_path / "ODIR-5K/ODIR-5K/Training Images/1_left.jpg").unlink()
    reasons = {r.member: r.left_out for r in fundus(tmp_path)}
    assert reasons["1_left.jpg"] == "not in the download"
    assert not reasons["1_right.jpg"]
