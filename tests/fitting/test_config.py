import pytest
import yaml

from sdmad.backbones.loading import check_backbone
from sdmad.demo.run import zero_shot
from sdmad.errors import UserError
from sdmad.fitting.config import TrainConfig, load_config, parse_numbers
from sdmad.inputs.catalog import load_catalog
from sdmad.runtime.cluster import Resources
from sdmad.scoring.pools import PipelineConfig, parse_pool
from tests.helpers import ROOT


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_configurations_are_valid(path) -> None:
    config = load_config(str(path), {}, TrainConfig)
    load_catalog(config.catalog)
    check_backbone(config.backbone)


def test_the_zero_shot_configuration_is_the_demos() -> None:
    config = load_config(str(ROOT / "configs/odir_zero_shot.yaml"), {}, TrainConfig)
    assert config.learner == zero_shot()


def test_the_command_line_replaces_values_of_the_file(tmp_path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"archive": "a", "labels": "l", "catalog": "phantoms"}))
    config = load_config(str(path), {"archive": "b", "seeds": None, "shots": [1, 2]}, TrainConfig)
    assert (config.archive, config.seeds, config.shots) == ("b", "0:8", [1, 2])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2", "not valid YAML"),
        ("- a\n- b\n", "not a mapping"),
        ("archive: a\nlabels: l\n", "the key 'catalog' is missing"),
        ("archive: a\nlabels: l\ncatalog: c\nshots: [0]\n", "shots must be 1 or more"),
        ("archive: a\nlabels: l\ncatalog: c\nlearner: {steps: many}\n", "learner.steps"),
    ],
)
def test_mistakes_name_file_and_key(tmp_path, text, message) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        load_config(str(path), {}, TrainConfig)
    assert str(path) in str(caught.value)


def test_ranges_and_lists_of_numbers() -> None:
    assert parse_numbers("0:3", "seeds") == [0, 1, 2]
    assert parse_numbers("4,1", "seeds") == [4, 1]
    for wrong in ("", "3:1", "a", "1,1", "-1"):
        with pytest.raises(UserError, match="seeds"):
            parse_numbers(wrong, "seeds")


def test_pools_are_a_range_or_a_number_of_detectors() -> None:
    assert parse_pool("2:8") == (2, 8)
    assert parse_pool("3") == (3, 3)
    for wrong in ("0", "4:2", "many"):
        with pytest.raises(UserError, match="nor a range such as 1:4"):
            parse_pool(wrong)


@pytest.mark.parametrize(
    ("resources", "detectors", "gpus", "fits"),
    [
        (Resources(2, 0), (1, 1), 0.0, 2.0),
        (Resources(16, 0), (1, 4), 0.0, 16.0),
        (Resources(64, 8), (1, 8), 1.0, 64.0),
    ],
)
def test_pools_fit_the_cluster_and_leave_room_for_readers(resources, detectors, gpus, fits) -> None:
    filled = PipelineConfig().fill(resources)
    assert filled.detectors == detectors
    assert filled.detector_gpus == gpus
    assert filled.detector_cpus * detectors[1] + filled.reader_cpus <= fits


@pytest.mark.parametrize(
    ("resources", "pool", "threads"),
    [
        (Resources(2, 0, fixed=True), None, 2),
        (Resources(7, 0, fixed=True), None, 7),
        (Resources(64, 0, fixed=True), None, 4),
        (Resources(64, 0, fixed=True), (2, 2), 32),
        # On a cluster it is not known how many detectors share a node.
        (Resources(64, 0), None, 4),
        (Resources(0, 0), (1, 16), 4),
    ],
)
def test_the_threads_of_a_pool_fill_the_cores(resources, pool, threads) -> None:
    assert PipelineConfig(detectors=pool).fill(resources).detector_threads == threads
    asked = PipelineConfig(detectors=pool, detector_threads=3)
    assert asked.fill(resources).detector_threads == 3


def test_pools_that_can_never_start_here_are_refused() -> None:
    here = Resources(2, 0, fixed=True)
    with pytest.raises(UserError, match=r"need 2\.5 CPUs, but this machine has 2"):
        PipelineConfig(detectors=(4, 4)).fill(here)
    with pytest.raises(UserError, match=r"1 detector and one reader need 3\.5 CPUs"):
        PipelineConfig(detector_cpus=3).fill(here)
    with pytest.raises(UserError, match="need 1 GPUs"):
        PipelineConfig(detectors=(1, 1), detector_gpus=1).fill(here)
    PipelineConfig(detectors=(4, 4)).fill(Resources(2, 0, fixed=False))
    assert PipelineConfig(detector_cpus=3).fill(Resources(0, 0)).detector_cpus == 3


def test_paths_of_weights_become_absolute_and_tags_stay(tmp_path, monkeypatch) -> None:
    from sdmad.backbones.config import BackboneConfig

    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").write_bytes(b"")
    assert BackboneConfig(model="ViT-B-32", pretrained="w.pt").pretrained == str(tmp_path / "w.pt")
    assert BackboneConfig(model="ViT-B-32", pretrained="openai").pretrained == "openai"
    assert BackboneConfig(model="local-dir:m").model == f"local-dir:{tmp_path / 'm'}"
    assert BackboneConfig(model="local-dir:m").moved("/n").model == "local-dir:/n"
