"""Loading in less time gives the same model, and takes nothing from the caller's random numbers."""

from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from sdmad.backbones.faster import UnfilledWeights, mapped
from sdmad.backbones.loading import load_weights

SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}


@pytest.fixture
def trained() -> open_clip.CLIP:
    torch.manual_seed(5)
    return open_clip.CLIP(**SMALL)


def write(state: dict[str, torch.Tensor], path, kind: str):
    place = path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, place)
    else:
        torch.save(state, place, _use_new_zipfile_serialization=kind == "zip")
    return place


@pytest.mark.parametrize("kind", ["zip", "before 1.6", "safetensors"])
def test_the_weights_are_those_of_the_file(trained, tmp_path, kind):
    place = write(trained.state_dict(), tmp_path, kind)
    with UnfilledWeights():
        model = open_clip.CLIP(**SMALL)
    load_weights(model, place)
    place.unlink()
    for name, tensor in trained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("fill", ["normal_", "uniform_", "trunc_normal_", "kaiming_uniform_"])
def test_nothing_is_filled_within(fill):
    before, weights = torch.get_rng_state(), torch.zeros(4, 4)
    with UnfilledWeights():
        getattr(torch.nn.init, fill)(weights)
    assert torch.equal(torch.get_rng_state(), before)
    assert not weights.any()
    getattr(torch.nn.init, fill)(weights)
    assert weights.any()


def mapped_files() -> str:
    return Path("/proc/self/maps").read_text()


def test_files_are_mapped_only_within(tmp_path):
    place = write({"x": torch.zeros(1 << 18)}, tmp_path, "zip")
    with mapped(place, True):
        shared = torch.load(place)["x"]
    assert "w.pt" in mapped_files()
    del shared
    kept = torch.load(place)["x"]
    assert "w.pt" not in mapped_files()
    assert not kept.any()
