"""A short run of benchmarks/fuzz.py, and files that once raised an exception."""

import random
import subprocess
import sys
from pathlib import Path

import pydicom
import pytest

from sdmad.archive.decode import frames
from sdmad.archive.listing import list_archive
from sdmad.archive.members import read_unit
from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.units import cut_units
from tests.helpers import ROOT

SPEC = ImageSpec((8, 8), (0.5,) * 3, (0.2,) * 3, "bilinear", "squash")


def test_two_thousand_mutated_files_are_decoded_or_have_a_reason() -> None:
    command = [sys.executable, "benchmarks/fuzz.py", "--files", "2000", "--seed", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout
    assert " 0 raised" in done.stdout


@pytest.mark.parametrize(
    "content", [b"\x1f\x8b\x08", b"\x1f\x8b", b"\x1f\x8b\x08\x04" + b"\xff" * 9]
)
def test_a_gzip_that_ends_in_its_header_has_a_reason(tmp_path, content) -> None:
    (tmp_path / "s.tar.gz").write_bytes(content)
    (unit,) = cut_units(str(tmp_path), list_archive(str(tmp_path)))
    (member,) = read_unit(unit)
    assert "breaks off" in member.reason


def test_a_panic_of_a_decoder_is_a_reason() -> None:
    """Panics of decoders written in Rust do not derive from `Exception`."""
    samples = Path(pydicom.__file__).parent / "data" / "test_files"
    content = (samples / "MR_small_RLE.dcm").read_bytes()
    data = content.index(b"\xe0\x7f\x10\x00") + 100
    chance, reasons = random.Random(0), []
    for _ in range(300):
        at = chance.randrange(data, len(content) - 40)
        mutated = content[:at] + chance.randbytes(30) + content[at + 30 :]
        reasons += [frame.reason for frame in frames(mutated, SPEC)]
    assert any("PanicException" in reason for reason in reasons)
