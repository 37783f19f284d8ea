"""The four sets in the layout of BMAD."""

from collections import Counter

import pytest

from sdmad.errors import UserError
from sdmad.recipes.bmad import read_benchmark
from sdmad.recipes.brain_mri import brats_slices
from sdmad.recipes.histopathology import convert as histopathology
from sdmad.recipes.liver_ct import convert as liver_ct
from sdmad.recipes.records import keep_apart
from sdmad.recipes.retinal_oct import resc
from tests.recipes import trees


def test_brats_keeps_the_split_of_bmad_and_takes_patients_from_names(tmp_path) -> None:
    records = {r.member: r for r in brats_slices(trees.brain_mri(tmp_path))}
    assert set(records) == {
        "train/good/00003_60.png",
        "train/good/00003_61.png",
        "valid/good/img/00100_60.png",
        "valid/Ungood/img/00124_60.png",
        "valid/Ungood/img/00124_70.png",
        "test/good/img/00000_96.png",
        "test/Ungood/img/00002_60.png",
        "test/Ungood/img/00002_68.png",
    }
    sick = records["valid/Ungood/img/00124_70.png"]
    assert (sick.patient_id, sick.split, sick.labels) == ("00124", "pool", ("glioma",))
    assert records["train/good/00003_60.png"].labels == ()
    assert {r.split for m, r in records.items() if m.startswith("test")} == {"test"}


def test_pool_slices_of_a_test_patient_are_left_out(tmp_path) -> None:
    source = trees.brain_mri(tmp_path)
    trees.image(source / "BraTS2021_slice/valid/Ungood/img/00002_90.png")
    left_out = [r.member for r in keep_apart(brats_slices(source)) if r.left_out]
    assert left_out == ["valid/Ungood/img/00002_90.png"]


def test_masks_of_mvfa_ad_are_left_out(tmp_path) -> None:
    source = trees.bmad(tmp_path / "Brain_AD", trees.BRATS, masks="anomaly_mask")
    assert len(list(brats_slices(source))) == sum(map(len, trees.BRATS.values()))


def test_sets_without_train_are_read(tmp_path) -> None:
    names = {place: members for place, members in trees.BRATS.items() if "train" not in place}
    source = trees.bmad(tmp_path / "Brain_AD", names)
    assert {r.split for r in brats_slices(source)} == {"pool", "test"}


@pytest.mark.parametrize("convert", [liver_ct, resc])
def test_scans_in_both_folders_of_bmad_are_drawn_into_one_split(tmp_path, convert) -> None:
    tree = trees.liver_ct if convert is liver_ct else trees.retinal_resc
    drawn = [r for r in convert(tree(tmp_path)) if not r.member.casefold().startswith("train/good")]
    drawn = [r for r in drawn if not r.left_out and not r.patient_id.startswith("train")]
    sides = {(r.patient_id, r.split) for r in drawn}
    assert Counter(split for _, split in sides) == {"pool": 2, "test": 2}
    assert len(drawn) == 16, "both folders of BMAD are used"


def test_the_draw_of_liver_scans_is_the_same_on_every_machine(tmp_path) -> None:
    records = liver_ct(trees.liver_ct(tmp_path))
    assert {r.patient_id for r in records if r.split == "test"} == {"lits-2", "lits-3"}


def test_normal_liver_slices_of_another_source_are_left_out(tmp_path) -> None:
    left_out = {r.member: r.left_out for r in liver_ct(trees.liver_ct(tmp_path)) if r.left_out}
    assert list(left_out) == ["Train/hist_DIY/train/good/7_100.png"]
    assert "BTCV" in left_out["Train/hist_DIY/train/good/7_100.png"]


def test_training_volumes_of_resc_are_other_patients_in_the_pool(tmp_path) -> None:
    train = [r for r in resc(trees.retinal_resc(tmp_path)) if r.patient_id.startswith("train")]
    assert [(r.patient_id, r.split, r.labels) for r in train] == [("train-1", "pool", ())]


def test_equal_patches_are_in_one_split(tmp_path) -> None:
    source = trees.histopathology(tmp_path)
    for place in ("train/good/7.png", "test/good/8.png"):
        trees.image(source / "camelyon16_256" / place, number=4242)
    records = keep_apart(histopathology(source))
    assert [r.member for r in records if r.left_out] == ["train/good/7.png"]
    assert {r.labels for r in records} == {(), ("metastasis",)}


def test_several_sets_are_refused(tmp_path) -> None:
    trees.brain_mri(tmp_path / "Brain_AD")
    trees.histopathology(tmp_path / "Histopathology_AD")
    with pytest.raises(UserError, match=r"several sets \(Brain_AD/.*Histopathology_AD/"):
        read_benchmark(tmp_path)


def test_a_set_without_anomalies_for_the_pool_is_refused(tmp_path) -> None:
    names = trees.BRATS | {"valid/Ungood": []}
    with pytest.raises(UserError, match="no images in valid/Ungood"):
        read_benchmark(trees.bmad(tmp_path, names))


def test_file_names_without_a_scan_are_refused(tmp_path) -> None:
    source = trees.brain_mri(tmp_path)
    trees.image(source / "BraTS2021_slice/test/good/img/1000.png")
    with pytest.raises(UserError, match=r"1000\.png is not named <scan>_<slice>"):
        list(brats_slices(source))
