"""Downloads whose folders are the labels: OCT2017, Kaggle's three tumours, BUSI."""

import shutil

import pytest

from sdmad.errors import UserError
from sdmad.recipes.brain_mri import tumour_types
from sdmad.recipes.breast_ultrasound import convert as breast_ultrasound
from sdmad.recipes.records import keep_apart
from sdmad.recipes.retinal_oct import oct2017
from tests.recipes import trees


def test_oct2017_keeps_its_split_and_takes_patients_from_names(tmp_path) -> None:
    records = {r.member: r for r in keep_apart(oct2017(trees.retinal_oct(tmp_path)))}
    assert len(records) == 14
    drusen = records["train/DRUSEN/DRUSEN-102-1.jpeg"]
    assert (drusen.patient_id, drusen.split, drusen.labels) == ("102", "pool", ("drusen",))
    assert records["val/NORMAL/NORMAL-203-1.jpeg"].split == "pool"
    assert {r.split for m, r in records.items() if m.startswith("test/")} == {"test"}


def test_oct2017_pool_images_of_test_patients_are_left_out(tmp_path) -> None:
    records = keep_apart(oct2017(trees.retinal_oct(tmp_path)))
    assert [r.member for r in records if r.left_out] == ["train/CNV/CNV-1001-1.jpeg"]
    assert [r.split for r in records if r.patient_id == "1001" and not r.left_out] == ["test"]


def test_oct2017_unexpected_file_names_are_refused(tmp_path) -> None:
    trees.image(trees.retinal_oct(tmp_path) / "OCT2017 /test/DME/picture.jpeg")
    with pytest.raises(UserError, match=r"picture\.jpeg is not named like DME-"):
        list(oct2017(tmp_path))


def test_tumours_keep_the_split_of_the_download(tmp_path) -> None:
    records = {r.member: r for r in tumour_types(trees.brain_tumour_mri(tmp_path))}
    assert len(records) == 16
    assert records["Training/glioma/Tr-gl_0010.jpg"].labels == ("glioma",)
    assert records["Testing/pituitary/Te-pi_0010.jpg"].labels == ("pituitary_tumour",)
    assert records["Testing/notumor/Te-no_0010.jpg"].labels == ()
    assert all((r.split == "test") == m.startswith("Testing") for m, r in records.items())


def test_a_copy_of_a_test_file_is_left_out_of_the_pool(tmp_path) -> None:
    source = trees.brain_tumour_mri(tmp_path)
    shutil.copy(
        source / "Testing/glioma/Te-gl_0010.jpg", source / "Training/glioma/Tr-glTr_0001.jpg"
    )
    records = keep_apart(tumour_types(source))
    assert [r.member for r in records if r.left_out] == ["Training/glioma/Tr-glTr_0001.jpg"]


@pytest.mark.parametrize("missing", ["Training/notumor", "Testing"])
def test_the_error_for_a_missing_folder_names_it(tmp_path, missing) -> None:
    shutil.rmtree(trees.brain_tumour_mri(tmp_path) / missing)
    with pytest.raises(UserError, match=f"there is no {missing}"):
        list(tumour_types(tmp_path))


def test_busi_has_every_image_once_and_no_mask(tmp_path) -> None:
    records = list(breast_ultrasound(trees.breast_ultrasound(tmp_path)))
    assert sorted({r.labels for r in records}) == [(), ("benign",), ("malignant",)]
    assert len(records) == 30
    assert "benign/benign (1).png" in {r.member for r in records}
    assert [r.split for r in records].count("test") == 15


def test_busi_equal_files_are_in_one_split(tmp_path) -> None:
    source = trees.breast_ultrasound(tmp_path)
    home = source / "Dataset_BUSI_with_GT"
    for number in range(1, 11):
        shutil.copy(home / f"benign/benign ({number}).png", home / f"benign/benign (9{number}).png")
    records = {r.member: r for r in breast_ultrasound(source)}
    for number in range(1, 11):
        one, other = (records[f"benign/benign ({k}).png"] for k in (number, f"9{number}"))
        assert (one.patient_id, one.split) == (other.patient_id, other.split)
