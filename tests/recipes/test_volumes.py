"""Segmented volumes: slices, their labels, and the shards they are written to."""

import tarfile
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pytest

from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.selected import decode_members
from sdmad.errors import UserError
from sdmad.inputs.labels import load_labels
from sdmad.recipes import volumes
from sdmad.recipes.archive_writer import write_archive
from sdmad.recipes.records import Record
from sdmad.recipes.volumes import brats, lits
from tests.recipes import trees

CASES = {"brats": (brats, trees.brats_volumes), "lits": (lits, trees.lits_volumes)}


def of(records: list[Record], name: str) -> dict[int, tuple[str, tuple[str, ...]]]:
    """Why each slice of a volume is left out, and its labels."""
    found = [r for r in records if r.member.startswith(f"{name}#frame=")]
    return {int(r.member.rpartition("=")[2]): (r.left_out, r.labels) for r in found}


@pytest.mark.parametrize(
    ("kind", "name", "category"),
    [("brats", "BraTS2021_00001_flair.nii.gz", "glioma"), ("lits", "volume-1.nii", "liver_tumour")],
)
def test_slices_are_labelled_by_their_segmentation(tmp_path, kind, name, category) -> None:
    convert, tree = CASES[kind]
    slices = of(list(convert(tree(tmp_path))), name)
    assert list(slices) == list(range(1, 13))
    for number, (reason, labels) in slices.items():
        assert labels == ((category,) if number in (9, 10) else ())
        expected = {
            **dict.fromkeys((1, 2), volumes.LITTLE_ORGAN),
            **dict.fromkeys((6, 7, 11, 12), volumes.NEAR_LESION),
            8: volumes.SMALL_LESION,
        }
        assert reason == expected.get(number, ""), number


def members(shard: Path) -> list[str]:
    with tarfile.open(shard) as tar:
        return tar.getnames()


@pytest.mark.parametrize("kind", CASES)
def test_a_volume_is_written_once_and_its_slices_are_those_that_are_scored(tmp_path, kind) -> None:
    convert, tree = CASES[kind]
    records = list(convert(tree(tmp_path / "download")))
    tally = write_archive(records, str(tmp_path / "archive"), "x", shard_images=7)
    table = load_labels(str(tmp_path / "archive/labels.csv"), ["glioma", "liver_tumour"])
    shards = sorted((tmp_path / "archive").glob("*.tar"))
    names = [members(path) for path in shards]
    copied = sorted({r.path.name for r in records if not r.left_out})
    assert sorted(name for some in names for name in some) == copied
    assert [len(some) for some in names] == [2] * (len(names) - 1) + [len(names[-1])]
    assert tally.images.total() == len(table) == 5 * sum(map(len, names))
    assert not set(table.patient[table.split == "pool"]) & set(table.patient[table.split == "test"])
    images = list(zip(table.archive.tolist(), table.member.tolist(), strict=True))
    spec = ImageSpec((16, 16), (0.5,) * 3, (0.5,) * 3)
    pixels, problems = decode_members(str(tmp_path / "archive"), images, spec)
    assert not problems
    assert len(pixels) == len(images)
    assert all(picture.max() > 0 for picture in pixels.values()), "slices with the organ"


def test_the_frame_of_a_lesion_is_that_of_the_reader(tmp_path) -> None:
    """A voxel that is bright in the image and a lesion in the segmentation, stored head first."""
    image, mask = np.zeros((16, 16, 12), np.int16), np.zeros((16, 16, 12), np.uint8)
    image[...], image[4:10, 4:10, 2], mask[4:10, 4:10, 2] = 10, 200, 1
    case = tmp_path / "d" / "BraTS-GLI-00001-000"
    trees.volume(Path(f"{case}-t2f.nii.gz"), image, "LPI")
    trees.volume(Path(f"{case}-seg.nii.gz"), mask, "LPI")
    (found,) = [r for r in brats(tmp_path / "d") if r.labels]
    assert (found.member, found.patient_id) == (
        "BraTS-GLI-00001-000-t2f.nii.gz#frame=3",
        "BraTS-GLI-00001",
    )
    spec = ImageSpec((16, 16), (0.5,) * 3, (0.5,) * 3)
    pixels, _ = decode_members(str(tmp_path / "d"), [("", found.member)], spec)
    assert pixels["", found.member].max() == 255


def test_volumes_without_a_usable_segmentation_are_left_out(tmp_path) -> None:
    source = trees.brats_volumes(tmp_path)
    home = source / "RSNA_ASNR_MICCAI_BraTS2021_TrainingData"
    mask = home / "BraTS2021_00002/BraTS2021_00002_seg.nii.gz"
    moved = nibabel.load(mask)
    affine = moved.affine.copy()
    affine[2, 3] += 40
    nibabel.save(nibabel.Nifti1Image(np.asarray(moved.dataobj), affine), mask)
    reasons = Counter(r.left_out for r in brats(source) if not r.patient_id)
    assert reasons == {volumes.OTHER_GRID: 1, volumes.NO_SEGMENTATION: 1}


def test_a_damaged_file_and_two_files_of_one_volume_are_refused(tmp_path) -> None:
    source = trees.lits_volumes(tmp_path)
    trees.volume(source / "copy/volume-0.nii", np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(UserError, match=r"for one volume.*keep one"):
        list(lits(source))
    (source / "copy/volume-0.nii").unlink()
    (source / "segmentations/segmentation-3.nii").write_bytes(b"x")
    with pytest.raises(UserError, match="cannot be read"):
        list(lits(source))
