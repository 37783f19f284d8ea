import numpy as np
import pytest
import torch

from sdmad import Detector
from sdmad.backbones.packed import can_pack, packing_pays
from sdmad.backbones.precision import half_type
from sdmad.errors import UserError
from sdmad.fits import deserialize, load_fits, serialize
from sdmad.method.adapter import AdapterConfig, TowerAdapterConfig
from sdmad.method.learner import LearnerConfig, fit_batch
from sdmad.phantoms.task import draw_example
from sdmad.runtime.cluster import Resources
from sdmad.scoring.pools import PipelineConfig

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def capabilities(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """What the CPU says it can do; empty."""
    found: dict[str, bool] = {}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    return found


@pytest.mark.parametrize("precision", ["auto", "single"])
def test_cpus_compute_in_single_precision_unless_asked(capabilities, precision) -> None:
    capabilities["avx512_bf16"] = True
    assert half_type(CPU, precision) is None


@pytest.mark.parametrize("instruction", ["avx512_bf16", "amx_bf16"])
def test_half_on_a_cpu_with_the_instructions(capabilities, instruction) -> None:
    capabilities[instruction] = True
    assert half_type(CPU, "half") is torch.bfloat16


def test_half_on_a_cpu_without_them_is_refused_before_anything_runs(capabilities) -> None:
    with pytest.raises(UserError, match="no bfloat16 instructions"):
        half_type(CPU, "half")
    with pytest.raises(UserError, match="use --precision auto"):
        PipelineConfig(precision="half").fill(Resources(2, 0, fixed=True))
    # The driver's CPU says nothing about detectors on GPUs.
    assert PipelineConfig(precision="half").fill(Resources(8, 1, fixed=True)).precision == "half"


def test_gpus_compute_in_float16_unless_single_is_asked() -> None:
    assert half_type(GPU, "auto") is torch.float16
    assert half_type(GPU, "half") is torch.float16
    assert half_type(GPU, "single") is None


@pytest.fixture
def as_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detectors compute in float16 without packed blocks, on this machine's device."""
    monkeypatch.setattr(
        "sdmad.backbones.encoder.half_type", lambda device, precision: torch.float16
    )
    monkeypatch.setattr("sdmad.backbones.encoder.packing_pays", lambda dtype: False)


def test_scores_in_float16_are_close_to_those_in_single(training_run, as_on_gpus) -> None:
    images = [draw_example(k, "test").image for k in range(16)]
    detector = Detector.load(str(training_run))
    half = detector.score(images)
    detector.encoder.half, detector.encoder.fast = None, detector.backbone
    single = detector.score(images)
    assert half.seeds.dtype == np.float32
    assert 0 < np.abs(half.seeds - single.seeds).max() < 5e-3
    assert 0 < np.abs(half.similarities - single.similarities).max() < 5e-3


def test_images_too_large_for_half_precision_are_scored_in_single(training_run, as_on_gpus) -> None:
    pixels = np.stack([draw_example(k, "test").image for k in range(4)])
    pixels = np.repeat(pixels[..., None], 3, axis=3)
    detector = Detector.load(str(training_run))
    right = detector.score_pixels(pixels)

    def overflow(_: torch.nn.Module, args: object, output: torch.Tensor) -> torch.Tensor:
        output[1] = torch.inf
        return output

    handle = detector.encoder.fast.image.blocks[0].register_forward_hook(overflow)
    found = detector.score_pixels(pixels)
    handle.remove()
    detector.encoder.half, detector.encoder.fast = None, detector.backbone
    single = detector.score_pixels(pixels)
    assert np.array_equal(found.seeds[[0, 2, 3]], right.seeds[[0, 2, 3]])
    assert np.allclose(found.seeds[1], single.seeds[1], atol=1e-5)
    assert not np.allclose(right.seeds[1], single.seeds[1], atol=1e-7)


def test_scores_in_half_precision_are_close_to_those_in_single(training_run, capabilities) -> None:
    capabilities["avx512_bf16"] = True
    images = [draw_example(k, "test").image for k in range(64)]
    single = Detector.load(str(training_run), "cpu").score(images)
    half = Detector.load(str(training_run), "cpu", precision="half").score(images)
    assert half.seeds.dtype == np.float32
    difference = np.abs(half.seeds - single.seeds).max()
    assert 0 < difference < 0.05


def test_adapted_blocks_compute_in_single_precision(
    supports, catalog, backbone, training_run, as_on_gpus
) -> None:
    adapter = AdapterConfig(image=TowerAdapterConfig(blocks=2))
    learner = LearnerConfig(steps=2, adapter=adapter)
    model, rule = fit_batch(backbone, catalog, supports[:1], learner)
    about = load_fits(str(training_run))[0].provenance.model_copy(update={"learner": learner})
    detector = Detector(backbone, [deserialize(serialize(model, rule, 0, about), "")], "half")
    pixels = np.stack([draw_example(k, "test").image for k in range(4)])
    pixels = np.repeat(pixels[..., None], 3, axis=3)
    types = []

    def note(_: torch.nn.Module, args: object, output: torch.Tensor) -> None:
        types.append(output.dtype)

    assert detector.encoder.fast.image.dtype == torch.float16
    # Its copy of this block is for the frozen pass.
    handle = backbone.image.blocks[-1].register_forward_hook(note)
    detector.score_pixels(pixels)
    handle.remove()
    assert set(types) == {torch.float32}


def test_scores_are_the_same_where_blocks_cannot_be_packed(training_run, monkeypatch) -> None:
    images = [draw_example(k, "test").image for k in range(8)]
    monkeypatch.setattr("sdmad.backbones.encoder.packing_pays", can_pack)
    packed = Detector.load(str(training_run), "cpu").score(images)
    monkeypatch.setattr("sdmad.backbones.encoder.packing_pays", lambda dtype: False)
    plain = Detector.load(str(training_run), "cpu").score(images)
    assert np.allclose(packed.seeds, plain.seeds, atol=1e-5)
    assert packed.findings == plain.findings


@pytest.mark.skipif(not can_pack(), reason="this PyTorch has no oneDNN")
@pytest.mark.parametrize(("capability", "pays"), [("AVX512", True), ("AVX2", False)])
def test_blocks_are_packed_where_that_is_faster(monkeypatch, capability, pays) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert packing_pays() is pays
