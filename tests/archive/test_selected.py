"""Chosen images: frames, names that look like frames, and what is missing."""

import gzip

import nibabel as nib
import numpy as np
from PIL import Image

from sdmad import storage
from sdmad.archive import volumes
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.selected import decode_members
from tests.archive.test_pages import save
from tests.helpers import encoded, write_tar

SPEC = ImageSpec((8, 8), (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")


def test_frames_and_files_that_are_called_like_frames_are_told_apart(tmp_path) -> None:
    cine = save("GIF", [Image.new("L", (8, 8), grey) for grey in (1, 2, 3)])
    storage.write_bytes(str(tmp_path / "cine.gif"), cine)
    storage.write_bytes(str(tmp_path / "x.png#frame=2"), encoded(9))
    images = [("", "cine.gif#frame=3"), ("", "x.png#frame=2"), ("", "./cine.gif#frame=1")]
    pixels, problems = decode_members(str(tmp_path), images, SPEC)
    assert {image: int(np.median(found)) for image, found in pixels.items()} == {
        images[0]: 3,
        images[1]: 9,
        images[2]: 1,
    }
    assert problems == []


def test_a_volume_is_opened_once_for_all_of_its_slices(tmp_path, monkeypatch) -> None:
    values = np.zeros((8, 8, 5), np.uint8) + np.arange(5, dtype=np.uint8)
    packed = gzip.compress(nib.Nifti1Image(values, np.eye(4)).to_bytes())
    write_tar(tmp_path / "s.tar", {"b.nii.gz": packed, "a.png": encoded(9)})
    opened = []
    original = volumes.VolumeFile.__init__
    monkeypatch.setattr(
        volumes.VolumeFile, "__init__", lambda *args: opened.append(1) or original(*args)
    )
    numbers = [4, 2, 1]
    images = [("s.tar", f"b.nii.gz#frame={k}") for k in numbers]
    images.insert(1, ("s.tar", "a.png"))
    pixels, problems = decode_members(str(tmp_path), images, SPEC)
    assert problems == []
    assert list(pixels) == images
    assert [int(np.median(pixels[image])) for image in images] == [3, 9, 1, 0]
    assert len(opened) == 1
    _, problems = decode_members(str(tmp_path), [("s.tar", "b.nii.gz")], SPEC)
    assert "5 frames; choose one with #frame=<number>" in problems[0]


def test_what_is_missing_or_has_several_frames_is_a_problem(tmp_path) -> None:
    storage.write_bytes(str(tmp_path / "c.gif"), save("GIF", [Image.new("L", (8, 8), 1)] * 1))
    cine = save("GIF", [Image.new("L", (8, 8), grey) for grey in (1, 2, 3)])
    storage.write_bytes(str(tmp_path / "cine.gif"), cine)
    images = [("", "cine.gif"), ("", "cine.gif#frame=4"), ("s.tar", "1.png")]
    pixels, problems = decode_members(str(tmp_path), images, SPEC)
    assert not pixels
    assert sorted(problem.rpartition(":")[2] for problem in problems)[1:] == [
        " the file has 3 frames; choose one with #frame=<number>",
        f"the label table names s.tar/1.png, which is not in the archive {tmp_path}",
    ]
