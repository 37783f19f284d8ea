"""What verification asks of S3, as docs/sizing.md says."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from sdmad import storage
from sdmad.scoring.plan import make_plan
from sdmad.scoring.tables import commit_unit, empty_failures
from sdmad.scoring.verify import verify_scores
from tests.helpers import write_tar

BLOCK = 64 << 10
IMAGES = 5


@pytest.fixture(scope="module")
def picture() -> bytes:
    """A PNG of more than one block."""
    noise = np.random.default_rng(0).integers(0, 255, (400, 300), np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).save(sink, "PNG")
    assert len(sink.getvalue()) > BLOCK + 1000
    return sink.getvalue()


def scored(base: str, names: list[tuple[str, str]]) -> tuple[str, str]:
    """The archive below `base`, and an output with a row for each of its images."""
    archive, output = f"{base}/archive", f"{base}/scores"
    metadata = {"archive": archive, "detector": "d", "per_seed": "false"}
    [unit] = make_plan(archive, output, metadata).units
    shards, members = zip(*names, strict=True)
    rows = pa.table({"archive": pa.array(shards), "member": pa.array(members)})
    commit_unit(output, unit.id, rows, empty_failures(), {})
    return archive, output


def test_each_loose_image_is_opened_unless_names_only(s3, picture, bytes_asked, tmp_path) -> None:
    base = f"{s3}/cost-{tmp_path.name}"
    for k in range(IMAGES):
        storage.write_bytes(f"{base}/archive/{k}.png", picture)
    place = scored(base, [("", f"{k}.png") for k in range(IMAGES)])
    bytes_asked.clear()
    assert verify_scores(*place).passed
    assert bytes_asked.count(BLOCK) == IMAGES
    bytes_asked.clear()
    assert verify_scores(*place, open_files=False).passed
    assert bytes_asked.count(BLOCK) == 0


def test_a_tar_of_large_images_is_one_request_for_each(s3, picture, bytes_asked, tmp_path) -> None:
    base = f"{s3}/cost-{tmp_path.name}"
    names = [f"{k}.png" for k in range(IMAGES)]
    shard = write_tar(tmp_path / "s.tar", dict.fromkeys(names, picture))
    storage.write_bytes(f"{base}/archive/s.tar", shard.read_bytes())
    place = scored(base, [("s.tar", name) for name in names])
    for open_files in (True, False):
        bytes_asked.clear()
        assert verify_scores(*place, open_files=open_files).passed
        assert IMAGES <= bytes_asked.count(BLOCK) + 1 <= IMAGES + 2
