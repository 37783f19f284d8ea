"""What is kept of an image, and that detectors score from it."""

import json
import struct

import numpy as np
import open_clip
import pyarrow as pa
import pytest
import torch

from sdmad.activations import Layout, Stored, from_arrow, to_arrow
from sdmad.archive.preprocess import InputConfig
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.encoder import ImageEncoder
from sdmad.backbones.loading import wrap
from sdmad.backbones.towers import Activations
from sdmad.detector import Detector
from sdmad.errors import UserError
from sdmad.phantoms.task import draw_example
from sdmad.storage import parquet

PIXELS = np.stack([np.repeat(draw_example(k, "test").image[..., None], 3, 2) for k in range(24)])


def clip_of(layers: int, width: int, size: int, pool: str = "tok"):
    """A small CLIP with random weights; its image tower reads one token, or all."""
    vision = {"layers": layers, "width": width, "patch_size": 16, "image_size": size}
    vision |= {"head_width": 16, "pool_type": pool}
    text = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    torch.manual_seed(0)
    clip = open_clip.CLIP(24, vision, text)
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    return wrap(clip, tokenizer, BackboneConfig(), "cpu")


def test_a_head_that_reads_one_token_needs_three_vectors() -> None:
    backbone = clip_of(2, 32, 32)
    layout = Layout.of(backbone)
    assert layout.lengths == {"patches": 32, "f_in": 32, "f_frozen": 32}
    assert layout.bytes_per_image == 6 * 32
    pixels = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3), np.uint8)
    activations, frozen = ImageEncoder(backbone)(pixels)
    restored, embeddings = layout.restore(
        layout.columns_of(activations, frozen), backbone.image, backbone.device
    )
    for name in ("f_in", "f_frozen", "patches"):
        found, right = getattr(restored, name), getattr(activations, name)
        assert torch.allclose(found, right, rtol=2**-11, atol=2**-24)
    assert torch.allclose(embeddings, frozen, atol=1e-3)
    assert torch.equal(restored.read, activations.read)


def test_a_head_that_reads_all_tokens_needs_all_and_has_them_if_they_are_few(backbone) -> None:
    layout = Layout.of(backbone)
    assert (layout.tokens, layout.width, layout.embedding) == (64, 128, 128)
    large = clip_of(2, 64, 400, pool="avg")
    kept = Layout.of(large)
    assert kept.all_tokens
    assert kept.lengths == {"patches": 64, "embedding": 24}, "626 tokens are too many"


def test_numbers_that_float16_cannot_hold_are_kept_by_a_scale() -> None:
    layout = Layout(tokens=1, width=4, embedding=0)
    large = torch.tensor([[[1e6, -3.0, 250.0, 0.5]], [[1.0, 2.0, 3.0, 4.0]]])
    activations = Activations(large, large / 2, read=torch.zeros(2), patches=large[:, 0] / 4)
    columns = layout.columns_of(activations, torch.zeros(2, 3))
    assert columns["scale"].tolist() == [16, 1]
    assert all(np.isfinite(values).all() for values in columns.values())
    values = columns["f_in"].astype(np.float32) * columns["scale"][:, None]
    assert np.allclose(values, large[:, 0], rtol=2**-11)


def test_tables_keep_every_bit_also_zeros_at_the_end_and_in_slices() -> None:
    values = np.arange(40, dtype=np.float16).reshape(10, 4)
    values[:, -1] = 0
    table = pa.table(to_arrow({"f_in": values, "scale": np.ones(10, np.float32)}))
    read = parquet.decode(parquet.encode(table, 3))
    assert np.array_equal(from_arrow(read)["f_in"], values)
    assert np.array_equal(from_arrow(read.slice(2, 5))["f_in"], values[2:7])
    assert from_arrow(read.slice(0, 0))["f_in"].shape == (0, 4)
    # What the page on activations says: numbers of two bytes, the lowest first.
    assert struct.unpack("<4e", read["f_in"][1].as_py()) == (4.0, 5.0, 6.0, 0.0)


def test_scores_from_activations_are_those_from_images(training_run) -> None:
    detector = Detector.load(str(training_run), "cpu")
    right = detector.score_pixels(PIXELS)
    layout = Layout.of(detector.backbone)
    columns = layout.columns_of(*detector.encoder(PIXELS))
    found = detector.score_activations(
        *layout.restore(columns, detector.backbone.image, detector.backbone.device)
    )
    assert 0 < np.abs(found.seeds - right.seeds).max() < 1e-3
    assert np.abs(found.anomaly_seeds - right.anomaly_seeds).max() < 1e-3
    assert np.abs(found.similarities - right.similarities).max() < 1e-3


def test_what_is_stored_of_a_run_is_read_again(backbone) -> None:
    spec = InputConfig(window="lung").apply(backbone.spec)
    stored = Stored("s3://a", BackboneConfig(), backbone.identity, spec, Layout.of(backbone))
    assert Stored.of(stored.metadata(), "s3://b") == stored
    assert set(json.loads(stored.metadata()["identity"])) == {
        *("architecture", "activation", "input", "tokenizer", "weights")
    }
    with pytest.raises(UserError, match="does not hold activations of this version"):
        Stored.of({"archive": "x"}, "s3://b")
