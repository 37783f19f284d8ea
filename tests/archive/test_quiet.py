"""Decoding leaves the process as it was, and hears no decoder."""

import logging
import threading
import warnings

import numpy as np
import pytest
from PIL import Image, ImageFile

from sdmad.archive.decode import decode
from sdmad.archive.limits import DecodeError
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.quiet import quiet
from tests.archive.test_dicom import dataset, saved
from tests.helpers import encoded

SPEC = ImageSpec((8, 8), (0.5,) * 3, (0.2,) * 3)
LOGGERS = ("pydicom", "tifffile", "nibabel.global")


def settings() -> list[object]:
    levels = [logging.getLogger(name).level for name in LOGGERS]
    return [*levels, Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, warnings.filters[:]]


def test_decoding_leaves_the_process_as_it_was(monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    before = settings()
    png = encoded(3, (200, 100))
    assert decode(png, SPEC).shape == (8, 8, 3), "larger than the caller's limit"
    with pytest.raises(DecodeError):
        decode(png[: len(png) // 2], SPEC)
    decode(saved(dataset(np.arange(64, dtype=np.uint16).reshape(8, 8))), SPEC)
    assert settings() == before


def test_the_last_thread_puts_the_settings_back(monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with quiet():
            inside.set()
            leave.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(20)
    with quiet():
        pass
    assert Image.MAX_IMAGE_PIXELS is None, "another thread still decodes"
    leave.set()
    thread.join()
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_no_decoder_is_heard(caplog, recwarn) -> None:
    with quiet():
        logging.getLogger("pydicom").error("Doe^Jane")
        logging.getLogger("tifffile").error("Doe^Jane")
        warnings.warn("Doe^Jane", stacklevel=1)
    assert not caplog.records
    assert not recwarn.list
