"""A file whose decoder crashes or hangs has a reason, and the next file is decoded.

Pillow plug-ins crash and hang on purpose.
"""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sdmad.archive import quarantine
from sdmad.archive.decode import decode, frames
from sdmad.archive.preprocess import ImageSpec, InputConfig
from sdmad.archive.quarantine import Decoder
from tests.helpers import CRASH, FATAL_SIZE, FICKLE, HANG, encoded, killers, pages

SIZE = (20, 20)
SPEC = ImageSpec((16, 16), (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")


@pytest.fixture
def deadly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Child processes load the plug-ins for `CRASH` and `HANG`."""
    monkeypatch.setenv("PYTHONPATH", killers(tmp_path))


def test_the_child_knows_windows_and_percentiles() -> None:
    content = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint16).reshape(16, 16)).save(content, "PNG")
    for config in (InputConfig(window={"center": 90, "width": 70}), InputConfig(stretch=(20, 70))):
        spec = config.apply(SPEC)
        with Decoder(spec, 60) as decoder:
            (frame,) = decoder.frames(content.getvalue())
        assert np.array_equal(frame.pixels, decode(content.getvalue(), spec))


def test_the_child_gives_what_this_process_gives() -> None:
    with Decoder(SPEC, 60) as decoder:
        for content in (
            encoded(99),
            encoded(9, (3000, 2000), "RGB", "JPEG"),
            pages(SIZE, SIZE, SIZE),
            b"junk",
            b"",
        ):
            here, there = list(frames(content, SPEC)), list(decoder.frames(content))
            assert [(f.number, f.reason) for f in here] == [(f.number, f.reason) for f in there]
            for one, other in zip(here, there, strict=True):
                assert (one.pixels is None) == (other.pixels is None)
                assert one.pixels is None or np.array_equal(one.pixels, other.pixels)


@pytest.mark.usefixtures("deadly")
def test_a_crash_is_a_reason_and_the_next_file_is_decoded() -> None:
    with Decoder(SPEC, 60) as decoder:
        (frame,) = decoder.frames(CRASH)
        assert frame.pixels is None
        assert frame.reason == "quarantined: the decoder crashed (SIGSEGV)"
        assert next(decoder.frames(encoded(7))).pixels is not None


@pytest.mark.usefixtures("deadly")
def test_a_frame_that_crashes_costs_no_other_frame() -> None:
    content = pages(SIZE, SIZE, FATAL_SIZE, SIZE, FATAL_SIZE)
    with Decoder(SPEC, 60) as decoder:
        found = list(decoder.frames(content))
        assert decoder.child is None or decoder.child.poll() is None
        (alone,) = decoder.frames(pages(FATAL_SIZE))
    assert [frame.number for frame in found] == [1, 2, 3, 4, 5]
    assert [frame.pixels is None for frame in found] == [False, False, True, False, True]
    assert {f.reason for f in found} == {"", "quarantined: the decoder crashed (SIGSEGV)"}
    # The page at index 3 is grey level 120: the frames after a crash are the right ones.
    assert np.unique(found[3].pixels).tolist() == [120]
    assert (alone.number, alone.pixels) == (None, None)


@pytest.mark.usefixtures("deadly")
def test_a_file_with_many_crashing_frames_is_given_up_with_a_row_for_each_frame(
    monkeypatch,
) -> None:
    monkeypatch.setattr(quarantine, "MOST_CRASHES", 2)
    with Decoder(SPEC, 60) as decoder:
        found = list(decoder.frames(pages(FATAL_SIZE, FATAL_SIZE, SIZE, FATAL_SIZE)))
    assert [frame.number for frame in found] == [1, 2, 3, 4]
    assert all(frame.pixels is None for frame in found)
    assert "2 other frames" in found[2].reason


@pytest.mark.usefixtures("deadly")
def test_a_file_that_crashes_when_it_is_opened_is_one_frame() -> None:
    with Decoder(SPEC, 60) as decoder:
        (frame,) = decoder.frames(pages(SIZE, SIZE, mark=FICKLE))
    assert (frame.number, frame.reason) == (None, "quarantined: the decoder crashed (SIGSEGV)")


def test_frames_that_nobody_takes_are_not_those_of_the_next_file() -> None:
    with Decoder(SPEC, 60) as decoder:
        left = decoder.frames(pages(SIZE, SIZE, SIZE))
        next(left)
        left.close()
        (frame,) = decoder.frames(encoded(7))
    assert (frame.number, np.unique(frame.pixels).tolist()) == (None, [7])


@pytest.mark.usefixtures("deadly")
def test_a_hang_is_a_reason_after_a_finite_number_of_attempts() -> None:
    with Decoder(SPEC, 2) as decoder:
        assert next(decoder.frames(encoded(7))).pixels is not None
        start = time.monotonic()
        (frame,) = decoder.frames(HANG)
        assert frame.reason == "quarantined: the decoder did not return within 2 seconds"
        assert time.monotonic() - start < 30
        assert next(decoder.frames(encoded(7))).pixels is not None


WATCHED = """
import time
from sdmad.archive.decode import frames
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.quarantine import watchdog
with watchdog(0.5):
    pass
time.sleep(1)
print("off after the block", flush=True)
with watchdog(1):
    list(frames(CONTENT, ImageSpec((16, 16), (0.5,) * 3, (0.2,) * 3)))
"""


@pytest.mark.usefixtures("deadly")
def test_the_watchdog_ends_a_process_that_hangs_in_native_code_and_is_off_after_the_block() -> None:
    code = WATCHED.replace("CONTENT", repr(HANG))
    ended = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, timeout=60
    )
    assert ended.stdout == b"off after the block\n"
    assert ended.returncode == -signal.SIGALRM


def test_the_start_of_the_child_does_not_count_against_the_time_of_a_file() -> None:
    with Decoder(SPEC, 0.3) as decoder:  # Its imports take longer.
        assert next(decoder.frames(encoded(7))).pixels is not None
