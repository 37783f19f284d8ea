"""Verification catches scorers that leave something out: its rules and its code are its own.

The scorers are the readers with one function replaced, without Ray.
"""

import importlib
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pytest

from sdmad.archive import decode, naming
from tests.archive.test_dicom import dataset, saved
from tests.helpers import encoded, write_tar
from tests.scoring.helpers import animation


def test_a_scorer_with_a_wrong_filter_is_caught(scored, monkeypatch) -> None:
    """Its plan and its tables lack what it leaves out; verification names that."""
    members = {"x.webp": encoded(format="WEBP"), "y.png": encoded()}
    write_tar(scored.archive / "w.tar", members)
    (scored.archive / "z.webp").write_bytes(members["x.webp"])
    right = naming.is_sidecar
    monkeypatch.setattr(
        naming, "is_sidecar", lambda name: right(name) or name.lower().endswith(".webp")
    )
    assert scored.score().returncode == 0
    assert scored.verify() == (1, ["  lost: w.tar/x.webp", "  not scored yet: z.webp (1 image)"])


def test_a_scorer_that_drops_every_second_frame_is_caught(scored, monkeypatch) -> None:
    films = {f"film.{form.lower()}": animation(form) for form in ("GIF", "PNG", "WEBP", "TIFF")}
    films["scan.dcm"] = saved(dataset(np.zeros((3, 8, 8), np.uint16)))
    write_tar(scored.archive / "films.tar", films)
    (scored.archive / "loose.gif").write_bytes(films["film.gif"])
    all_frames = decode.frames

    def every_second(content: bytes, *options: object):
        return (f for k, f in enumerate(all_frames(content, *options)) if k % 2 == 0)

    monkeypatch.setattr(decode, "frames", every_second)
    assert scored.score().returncode == 0
    code, shown = scored.verify()
    assert code == 1
    assert shown == [
        "  lost: loose.gif#frame=2",
        *(f"  lost: films.tar/{name}#frame=2" for name in sorted(films)),
    ]


@pytest.mark.parametrize(
    ("module", "name"),
    [("tars", "_is_link"), ("zips", "_is_image"), ("parquets", "_is_list")],
)
def test_a_reader_without_a_kind_of_member_is_caught(scored, monkeypatch, module, name) -> None:
    write_tar(scored.archive / "l.tar", {"a.png": encoded()})
    with tarfile.open(scored.archive / "l.tar", "a") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        tar.addfile(link)
    with zipfile.ZipFile(scored.archive / "l.zip", "w") as archive:
        archive.writestr("z.png", encoded())
    pd.DataFrame({"image": [np.frombuffer(encoded(), np.uint8)]}).to_parquet(
        scored.archive / "l.parquet"
    )
    monkeypatch.setattr(importlib.import_module(f"sdmad.archive.{module}"), name, lambda _: False)
    assert scored.score().returncode == 0
    assert (
        scored.verify()
        == {
            "tars": (1, ["  lost: l.tar/link.png"]),
            "zips": (1, ["  lost: l.zip/z.png"]),
            "parquets": (1, ["  lost: l.parquet/row=0"]),
        }[module]
    )
