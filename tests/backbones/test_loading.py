"""Backbones from names, files, folders and buckets: right to the last bit, without side effects."""

import json
import logging
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import transformers
from open_clip.transformer import QuickGELU
from pydantic import ValidationError
from safetensors.torch import save_file

from sdmad import storage
from sdmad.backbones import folders, loading
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.identity import BackboneIdentity
from sdmad.backbones.loading import load_backbone
from sdmad.backbones.saving import save_backbone
from sdmad.errors import UserError
from tests.helpers import ROOT

load = load_backbone.__wrapped__  # Without the cache of the last one.
TINY: dict[str, object] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {
        "context_length": 77,
        "vocab_size": 49408,
        "width": 16,
        "heads": 2,
        "layers": 2,
    },
}
SIGLIP: dict[str, object] = TINY | {
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {
        "image_size": 64,
        "timm_model_name": "sdmad_phantom_vit",
        "timm_pool": "avg",
        "timm_proj": "linear",
    },
}


@pytest.fixture
def tiny(tmp_path, monkeypatch) -> str:
    """An open_clip model called like OpenAI's, two blocks wide."""
    return register("ViT-B-32", TINY, monkeypatch)


def register(name: str, config: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> str:
    """Let open_clip know `name` by a small configuration while the test runs."""
    known = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setitem(known, name, json.loads(json.dumps(config)))
    return name


def checkpoint(path: Path, name: str, **settings: object) -> Path:
    """Random weights of a model in a file."""
    torch.manual_seed(0)
    clip = open_clip.create_model(name, **settings)
    save_file({k: v.clone() for k, v in clip.state_dict().items()}, path)
    return path


def test_published_weights_get_the_activation_of_their_tag(tiny, tmp_path, monkeypatch) -> None:
    path = checkpoint(tmp_path / "w.safetensors", tiny)
    monkeypatch.setattr(loading, "download_pretrained", lambda published: str(path))
    backbone = load(BackboneConfig(model=tiny, pretrained="openai"), "cpu")
    assert backbone.identity.activation == "quick_gelu"
    expected = open_clip.create_model(tiny, pretrained=str(path), force_quick_gelu=True).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    with torch.no_grad():
        theirs = expected.encode_image(backbone.pixels(pixels), normalize=True)
    assert torch.equal(backbone.embed_images(pixels), theirs)
    plain = load(BackboneConfig(model=tiny, pretrained="laion2b_s34b_b79k"), "cpu")
    assert plain.identity.activation == "gelu"
    assert not torch.allclose(plain.embed_images(pixels), theirs, atol=1e-4)


def test_a_file_of_siglip_gets_siglips_input_and_bias(tmp_path, monkeypatch) -> None:
    name = register("ViT-B-16-SigLIP", SIGLIP, monkeypatch)
    # SigLIP's own vocabulary is on a hub.
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: open_clip.SimpleTokenizer())
    backbone = load(
        BackboneConfig(model=name, pretrained=str(checkpoint(tmp_path / "s.safetensors", name))),
        "cpu",
    )
    assert backbone.spec.mean == backbone.spec.std == (0.5, 0.5, 0.5)
    assert backbone.spec.resize_mode == "squash"
    assert backbone.logit_bias == -10


def test_a_file_of_openais_has_quick_gelu(tiny, tmp_path) -> None:
    torch.manual_seed(0)
    state = open_clip.create_model(tiny).state_dict()
    sizes = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
    path = tmp_path / "openai.pt"
    torch.save(state | {key: torch.tensor(value) for key, value in sizes.items()}, path)
    assert loading.is_openai(path)
    torch.save(state, tmp_path / "other.pt")
    assert not loading.is_openai(tmp_path / "other.pt")
    loaded = load(BackboneConfig(model=tiny, pretrained=str(path)), "cpu")
    assert loaded.identity.activation == "quick_gelu"
    expected = open_clip.create_model(tiny, force_quick_gelu=True).eval()
    expected.load_state_dict(state)
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(loaded.image.run(image), expected.encode_image(image))
    wrong = BackboneConfig(model=tiny, pretrained=str(path), activation="gelu")
    with pytest.raises(UserError, match="checkpoint of OpenAI's, trained with quick_gelu"):
        load(wrong, "cpu")


def test_a_torchscript_archive_loads_as_openais(tiny, tmp_path) -> None:
    """As OpenAI publishes its weights: a traced module whose state dict has the sizes, too."""

    class Held(torch.nn.Module):
        def __init__(self, clip: torch.nn.Module) -> None:
            super().__init__()
            for name, child in clip.named_children():
                setattr(self, name, child)
            for name, parameter in clip.named_parameters(recurse=False):
                setattr(self, name, parameter)
            for key, value in (("input_resolution", 32), ("context_length", 77)):
                self.register_buffer(key, torch.tensor(value))
            self.register_buffer("vocab_size", torch.tensor(49408))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.manual_seed(0)
    clip = open_clip.create_model(tiny)
    path = tmp_path / "archive.pt"
    torch.jit.save(torch.jit.trace(Held(clip), torch.zeros(1)), path)
    backbone = load(BackboneConfig(model=tiny, pretrained=str(path)), "cpu")
    assert backbone.identity.activation == "quick_gelu"
    image = torch.zeros(1, 3, 32, 32)
    quick = open_clip.create_model(tiny, force_quick_gelu=True)
    quick.load_state_dict(clip.state_dict())
    with torch.no_grad():
        assert torch.equal(backbone.image.run(image), quick.eval().encode_image(image))


def test_a_file_of_another_image_size_is_refused(tiny, tmp_path, monkeypatch) -> None:
    path = checkpoint(tmp_path / "w.safetensors", tiny)
    larger = TINY | {"vision_cfg": TINY["vision_cfg"] | {"image_size": 48}}
    register("ViT-B-32", larger, monkeypatch)
    with pytest.raises(UserError, match=r"embedding of shape \(5, 32\), and ViT-B-32 has \(10"):
        load(BackboneConfig(model="ViT-B-32", pretrained=str(path)), "cpu")


def test_a_file_of_another_length_of_texts_is_refused(tiny, tmp_path, monkeypatch) -> None:
    path = checkpoint(tmp_path / "w.safetensors", tiny)
    shorter = TINY | {"text_cfg": TINY["text_cfg"] | {"context_length": 20}}
    register("ViT-B-32", shorter, monkeypatch)
    with pytest.raises(UserError, match=r"holds positional_embedding of shape \(77, 16\)"):
        load(BackboneConfig(model="ViT-B-32", pretrained=str(path)), "cpu")


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_the_numbers_in_a_state_dict_of_openais_are_no_weights(tiny, tmp_path, kind) -> None:
    state = {k: v.clone() for k, v in open_clip.create_model(tiny).state_dict().items()}
    whole = state | dict.fromkeys(loading.OPENAI_KEYS, torch.tensor(1))
    path = tmp_path / f"w.{kind}"

    def write(content: dict[str, torch.Tensor]) -> None:
        save_file(content, path) if kind == "safetensors" else torch.save(content, path)

    config = BackboneConfig(model=tiny, pretrained=str(path))
    write({k: v.clone() for k, v in whole.items()})
    assert load(config, "cpu").identity.activation == "quick_gelu"
    write({k: v.clone() for k, v in whole.items() if k != "ln_final.weight"})
    with pytest.raises(UserError, match=r"ln_final\.weight is missing or unknown$"):
        load(config, "cpu")


def test_weights_that_are_no_numbers_are_refused(tiny, tmp_path) -> None:
    state = {k: v.clone() for k, v in open_clip.create_model(tiny).state_dict().items()}
    state["text_projection"][0, 0] = float("nan")
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="its weights text_projection are not all finite numbers"):
        load(BackboneConfig(model=tiny, pretrained=str(tmp_path / "w.safetensors")), "cpu")


@pytest.mark.parametrize(
    ("part", "key", "value"), [("vision_cfg", "image_size", 48), ("text_cfg", "context_length", 20)]
)
def test_a_folder_with_positions_of_another_length_is_refused(
    tiny, tmp_path, part, key, value
) -> None:
    """open_clip would interpolate them."""
    weights = checkpoint(tmp_path / "w.safetensors", tiny)
    folder = tmp_path / "saved"
    save_backbone(BackboneConfig(model=tiny, pretrained=str(weights)), str(folder))
    (folder / folders.SEAL).unlink()
    path = folder / "open_clip_config.json"
    content = json.loads(path.read_text())
    content["model_cfg"][part][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="and its configuration has"):
        load(BackboneConfig(model=str(folder)), "cpu")


class Runs:
    """A pickle that would run code."""

    def __reduce__(self):
        return (os.system, ("exit 3",))


@pytest.mark.parametrize(
    "kind", ["text", "empty", "code", "depth", "container", "list", "tensor", "cut", "cut old"]
)
def test_a_file_that_is_no_checkpoint_of_the_model_is_one_sentence(
    tiny, tmp_path, monkeypatch, kind
) -> None:
    path = tmp_path / "w.pt"
    state = open_clip.create_model(tiny).state_dict()
    contents = {"code": Runs(), "depth": state, "container": {"model": state}}
    contents |= {"list": [1], "tensor": torch.zeros(3), "cut": state, "cut old": state}
    if kind in contents:
        torch.save(contents[kind], path, _use_new_zipfile_serialization="old" not in kind)
        if "cut" in kind:
            path.write_bytes(path.read_bytes()[:-5000])
    else:
        path.write_bytes(b"" if kind == "empty" else b"epoch 3, loss 0.1\n")
    if kind == "depth":
        register(tiny, TINY | {"text_cfg": TINY["text_cfg"] | {"layers": 3}}, monkeypatch)
    reasons = {"code": "holds code, which is never run", "depth": "another model: Missing key"}
    reasons["container"] = "another model: Missing key"
    reasons["cut old"] = "file might be corrupted"
    with pytest.raises(UserError) as told:
        load(BackboneConfig(model=tiny, pretrained=str(path)), "cpu")
    sentence = str(told.value)
    assert reasons.get(kind, "not a checkpoint") in sentence
    assert "give a checkpoint of this model" in sentence
    assert "\n" not in sentence
    assert "\x1b" not in sentence
    assert "hub" not in sentence


def test_an_activation_that_the_towers_cannot_have_is_refused(tmp_path, monkeypatch) -> None:
    """The image tower is timm's, which keeps its own activation."""
    name = register("ViT-B-16-SigLIP", SIGLIP, monkeypatch)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: open_clip.SimpleTokenizer())
    path = str(checkpoint(tmp_path / "s.safetensors", name))
    wrong = BackboneConfig(model=name, pretrained=path, activation="quick_gelu")
    with pytest.raises(UserError, match="quick_gelu is not possible for ViT-B-16-SigLIP"):
        load(wrong, "cpu")


@pytest.mark.parametrize("key", [{"activation": "gelu"}, {"preprocess": {"resize_mode": "squash"}}])
def test_keys_of_files_beside_a_backbone_that_brings_its_own_are_refused(key) -> None:
    with pytest.raises(UserError, match="'activation' and 'preprocess', which are for checkpoint"):
        loading.check_backbone(BackboneConfig(**key))


@pytest.mark.parametrize("std", [[0, 0, 0], [58, 57, 57]])
def test_an_input_out_of_range_is_refused(std) -> None:
    with pytest.raises(ValidationError, match=r"preprocess\.std"):
        BackboneConfig(model="ViT-B-32", pretrained="x.pt", preprocess={"std": std})


def test_a_path_without_a_folder_is_called_a_folder() -> None:
    with pytest.raises(UserError, match="there is no backbone folder /no/such"):
        loading.check_backbone(BackboneConfig(model="/no/such"))


def test_a_tokenizer_that_cannot_be_had_is_one_sentence(
    tiny, tmp_path, monkeypatch, caplog
) -> None:
    """As SigLIP's on a machine without internet, whose client warns of each retry."""

    def unreachable(name: str):
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 8s")
        raise OSError("We couldn't connect to 'https://hub'.")

    monkeypatch.setattr(open_clip, "get_tokenizer", unreachable)
    config = BackboneConfig(
        model=tiny, pretrained=str(checkpoint(tmp_path / "x.safetensors", tiny))
    )
    caplog.clear()
    with pytest.raises(UserError, match=r"^the tokenizer of .* save-backbone"):
        load(config, "cpu")
    assert not caplog.records


def test_weights_of_a_file_may_move_to_a_folder_or_a_bucket(tiny, tmp_path, s3) -> None:
    """As after training where there is internet, and scoring where there is none."""
    path = checkpoint(tmp_path / "w.safetensors", tiny)
    before = BackboneConfig(model=tiny, pretrained=str(path))
    identity = load(before, "cpu").identity
    save_backbone(before, str(tmp_path / "saved"))
    storage.write_bytes(f"{s3}/moved/w.safetensors", path.read_bytes())
    save_backbone(before, f"{s3}/moved/folder")
    for place in (
        str(tmp_path / "saved"),
        f"local-dir:{tmp_path / 'saved'}",
        f"{s3}/moved/w.safetensors",
        f"{s3}/moved/folder",
    ):
        assert identity.difference(load(identity.moved(before, place), "cpu").identity) == ""


def test_moved_weights_keep_activation_and_input(tiny, tmp_path, monkeypatch) -> None:
    path = checkpoint(tmp_path / "w.safetensors", tiny)
    monkeypatch.setattr(loading, "download_pretrained", lambda published: str(path))
    tagged = load(BackboneConfig(model=tiny, pretrained="openai"), "cpu")
    moved = tagged.identity.moved(tagged.config, str(path))
    assert tagged.identity.difference(load(moved, "cpu").identity) == ""


def hugging_face_folder(folder: Path) -> Path:
    """A folder as `local-dir:` of BiomedCLIP: timm image tower, BERT text tower with vocabulary."""
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "small", "crack", "##s"]
    (folder / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    ).save_pretrained(folder)
    model = {
        "embed_dim": 16,
        "vision_cfg": {
            "image_size": 64,
            "timm_model_name": "sdmad_phantom_vit",
            "timm_pool": "avg",
            "timm_proj": "linear",
        },
        "text_cfg": {
            "hf_model_name": "an/encoder-of-the-hub",
            "hf_tokenizer_name": "an/encoder-of-the-hub",
            "hf_proj_type": "mlp",
            "hf_pooler_type": "cls_last_hidden_state_pooler",
            "context_length": 16,
        },
    }
    preprocess = {"mean": [0.4] * 3, "std": [0.3] * 3, "resize_mode": "squash"}
    content = {"model_cfg": model, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    clip, _ = folders.create(folder, "x")
    save_file({k: v.clone() for k, v in clip.state_dict().items()}, folder / folders.WEIGHTS[0])
    return folder


OFFLINE = """
import logging, socket, sys
def refuse(*arguments, **settings):
    raise AssertionError("the network was asked for something")
socket.socket.connect = socket.getaddrinfo = refuse
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.loading import load_backbone
for model in ("phantom", *sys.argv[1:]):
    backbone = load_backbone(BackboneConfig(model=model), "cpu")
    assert backbone.embed_texts(["a small crack"]).isfinite().all()
    print(backbone.identity.weights)
assert not logging.getLogger().handlers
logging.basicConfig(level=logging.INFO)
logging.info("mine")
"""


@dataclass(frozen=True)
class Offline:
    """A folder of a Hugging Face text tower, what `save_backbone` made of it in full and in half
    precision, and what a process without network says and loads."""

    source: BackboneConfig
    saved: dict[bool, Path]
    identities: dict[bool, BackboneIdentity]
    said: str
    fingerprints: list[str]


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Offline:
    folder = tmp_path_factory.mktemp("offline")
    source = BackboneConfig(model=str(hugging_face_folder(folder / "model")))
    saved = {half: folder / f"half-{half}" for half in (False, True)}
    identities = {half: save_backbone(source, str(path), half) for half, path in saved.items()}
    result = subprocess.run(
        [sys.executable, "-c", OFFLINE, str(folder / "model"), *map(str, saved.values())],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return Offline(source, saved, identities, result.stderr, result.stdout.split())


def test_a_folder_with_a_hugging_face_tower_asks_no_hub(offline) -> None:
    backbone = load(offline.source, "cpu")
    assert offline.fingerprints[1] == backbone.fingerprint
    assert backbone.spec.mean == (0.4, 0.4, 0.4)


@pytest.mark.parametrize("half", [False, True])
def test_a_saved_backbone_is_the_same_without_a_hub(offline, half) -> None:
    original = load(offline.source, "cpu")
    saved = load(BackboneConfig(model=str(offline.saved[half])), "cpu")
    assert saved.identity == offline.identities[half]
    assert offline.fingerprints[2 + half] == saved.identity.weights
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    close = {"atol": 2e-3 if half else 0.0}
    assert torch.allclose(original.embed_images(pixels), saved.embed_images(pixels), **close)
    texts = ["a small crack", "cracks"]
    assert torch.allclose(original.embed_texts(texts), saved.embed_texts(texts), **close)
    assert (original.identity.difference(saved.identity) == "") != half
    with pytest.raises(UserError, match="is not empty"):
        save_backbone(offline.source, str(offline.saved[half]))


def test_loading_says_nothing_and_lets_others_speak(offline) -> None:
    assert offline.said.splitlines() == ["INFO:root:mine"]


def test_a_saved_name_and_its_tag_are_the_same_backbone(tiny, tmp_path, monkeypatch) -> None:
    """A fit to `ViT-B-32 (openai)` scores on a node that has the saved folder alone."""
    path = checkpoint(tmp_path / "w.safetensors", tiny)
    monkeypatch.setattr(loading, "download_pretrained", lambda published: str(path))
    config = BackboneConfig(model=tiny, pretrained="openai")
    identity = save_backbone(config, str(tmp_path / "saved"))
    assert load(config, "cpu").identity.difference(identity) == ""
    assert identity.activation == "quick_gelu"


def test_a_bucket_is_copied_once_a_node_and_checked(s3, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SDMAD_CACHE", str(tmp_path / "cache"))
    uri = f"{s3}/{tmp_path.name}/phantom"
    identity = save_backbone(BackboneConfig(), uri)
    opened: list[str] = []
    original = storage.open_read

    def counted(uri: str, **settings: object):
        opened.append(uri)
        return original(uri, **settings)

    monkeypatch.setattr(storage, "open_read", counted)
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(lambda _: load(BackboneConfig(model=uri), "cpu"), range(4)))
    assert {backbone.identity for backbone in loaded} == {identity}
    assert len(opened) == len(set(opened)) == 4, "configuration, weights, merges, seal"
    assert identity.weights == load(BackboneConfig(), "cpu").fingerprint

    cached = next((tmp_path / "cache").rglob(folders.SEAL))
    cached.write_text('{"weights": "0000"}')
    with pytest.raises(UserError, match=r"its weights are .* and those that were saved 0000"):
        load(BackboneConfig(model=uri), "cpu")
    with pytest.raises(UserError, match="there is no backbone at"):
        load(BackboneConfig(model=f"{s3}/nothing/here"), "cpu")


def test_loading_leaves_the_process_as_it_was(tiny, tmp_path) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), list(root.filters), list(warnings.filters))
    environment = dict(os.environ)
    places = (
        str(hugging_face_folder(tmp_path / "model")),
        checkpoint(tmp_path / "w.safetensors", tiny),
    )
    numbers = torch.get_rng_state()
    load(BackboneConfig(model=places[0]), "cpu")
    load(BackboneConfig(model=tiny, pretrained=str(places[1])), "cpu")
    with pytest.raises(UserError):
        load(BackboneConfig(model=tiny, pretrained=str(tmp_path / "model")), "cpu")
    assert torch.equal(torch.get_rng_state(), numbers)
    assert (root.level, list(root.handlers), list(root.filters), list(warnings.filters)) == before
    assert dict(os.environ) == environment


def test_a_folder_that_is_none_is_one_sentence(tmp_path) -> None:
    with pytest.raises(UserError, match=r"has no open_clip_config\.json"):
        load(BackboneConfig(model=str(tmp_path)), "cpu")
    for content in ("{", "{}", '{"model_cfg": {"vision_cfg": [], "text_cfg": {}}}'):
        (tmp_path / "open_clip_config.json").write_text(content)
        with pytest.raises(UserError, match="not a configuration of open_clip"):
            load(BackboneConfig(model=str(tmp_path)), "cpu")


RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}
CONVNEXT = {"image_size": 32, "timm_model_name": "convnext_tiny.fb_in22k", "timm_pool": ""}
FASTVIT = {"image_size": 64, "timm_model_name": "fastvit_t8", "timm_pool": "avg"}


def convolutions(folder: Path, vision: dict[str, object]) -> Path:
    """A folder of a model with this image tower, and weights that cannot be read."""
    folder.mkdir()
    content = {"model_cfg": TINY | {"vision_cfg": vision}, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    (folder / folders.WEIGHTS[0]).write_bytes(b"no weights")
    return folder


@pytest.mark.parametrize(
    ("vision", "tower"), [(RESNET, "a ResNet"), (CONVNEXT, "timm's convnext")], ids=["own", "timm"]
)
def test_a_folder_of_convolutions_is_refused_from_its_configuration(
    tmp_path, monkeypatch, vision, tower
) -> None:
    config = BackboneConfig(model=str(convolutions(tmp_path / "model", vision)))
    monkeypatch.setattr(open_clip, "create_model", None)
    for check in (loading.check_backbone, load):
        with pytest.raises(UserError, match=f"{tower}, which ends in convolutions; use a") as told:
            check(config)
        assert str(told.value).startswith(f"the backbone {config.folder} cannot be adapted: its")


def test_a_tower_without_attention_is_refused_before_its_weights_are_read(tmp_path) -> None:
    """Some architectures of one module of timm end in attention, and some do not."""
    config = BackboneConfig(model=str(convolutions(tmp_path / "model", FASTVIT)))
    with pytest.raises(UserError, match=r"\(FastVit\) does not end in a list of"):
        load(config, "cpu")


def test_convolutions_in_a_bucket_or_on_a_hub_are_refused_before_their_weights_are_fetched(
    s3, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("SDMAD_CACHE", str(tmp_path / "cache"))
    folder = convolutions(tmp_path / "model", RESNET)
    uri = f"{s3}/{tmp_path.name}/resnet"
    for path in folder.iterdir():
        storage.write_bytes(f"{uri}/{path.name}", path.read_bytes())
    opened: list[str] = []
    original = storage.open_read

    def counted(uri: str, **settings: object):
        opened.append(uri)
        return original(uri, **settings)

    monkeypatch.setattr(storage, "open_read", counted)
    with pytest.raises(UserError, match="a ResNet, which ends in convolutions"):
        load(BackboneConfig(model=uri), "cpu")
    assert opened == [f"{uri}/open_clip_config.json"]

    def fetched(repository: str, name: str) -> str:
        return str(folder / name)

    monkeypatch.setattr(loading, "hf_hub_download", fetched)
    monkeypatch.setattr(open_clip, "create_model", None)
    with pytest.raises(UserError, match="hf-hub:some/resnet cannot be adapted"):
        load(BackboneConfig(model="hf-hub:some/resnet"), "cpu")


def test_every_quick_gelu_of_the_towers_is_counted(tiny) -> None:
    clip = open_clip.create_model(tiny, force_quick_gelu=True)
    backbone = loading.wrap(clip, open_clip.tokenize, BackboneConfig(), "cpu")
    assert backbone.identity.activation == "quick_gelu"
    assert sum(isinstance(m, QuickGELU) for m in clip.modules()) == 4
