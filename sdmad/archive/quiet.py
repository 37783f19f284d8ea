"""Decoding without side effects on the process that decodes."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageFile

_LOGGERS = [logging.getLogger(name) for name in ("pydicom", "tifffile")]


class _Settings:
    """What decoders need of the whole process, while any thread decodes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0

    def enter(self) -> None:
        with self._lock:
            if not self._inside:
                self._levels = [logger.level for logger in _LOGGERS]
                self._pillow = Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
                for logger in _LOGGERS:
                    logger.setLevel(logging.CRITICAL + 1)
                # `sdmad.archive.limits` has a limit of its own.
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = None, False
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = self._pillow
                for logger, level in zip(_LOGGERS, self._levels, strict=True):
                    logger.setLevel(level)


_settings = _Settings()


@contextmanager
def quiet() -> Iterator[None]:
    """While an image is decoded, its decoders warn nobody, take images of any size, and no
    truncated ones. Then all is as it was.

    Warnings and log messages may repeat text of a header, with patient data in it.
    """
    _settings.enter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _settings.leave()
