"""Images in the hands of a library user, without a detector."""

import io

import pytest
from PIL import Image

from sdmad.archive.limits import DecodeError
from sdmad.archive.pictures import pictures
from sdmad.archive.preprocess import ImageSpec
from tests.helpers import encoded

SPEC = ImageSpec((32, 32), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
DAMAGED = encoded(size=(200, 160), mode="RGB")[:200]


@pytest.mark.parametrize("form", ["path", "bytes", "picture"])
def test_a_damaged_image_among_others_is_named(tmp_path, form) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(DAMAGED)
    forms = {"path": path, "bytes": DAMAGED, "picture": Image.open(io.BytesIO(DAMAGED))}
    name = str(path) if form == "path" else "image 1"
    first, damaged = pictures([encoded(), forms[form]])
    spec = SPEC
    first.pixels(spec)
    with pytest.raises(DecodeError, match=f"^{name}: "):
        damaged.pixels(spec)


def test_a_frame_that_is_not_there_is_named(tmp_path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(encoded())
    [frame] = pictures(f"{path}#frame=3")
    with pytest.raises(DecodeError, match=f"^{path}#frame=3: "):
        frame.pixels(SPEC)
