"""Folders whose files are missing, or not those that were saved."""

import json

import pytest

from sdmad.backbones import folders
from sdmad.backbones.config import BackboneConfig
from sdmad.backbones.saving import save_backbone
from sdmad.errors import UserError
from tests.backbones.test_loading import hugging_face_folder, load

CONFIG = "open_clip_config.json"


@pytest.fixture
def folder(tmp_path):
    """A folder with a BERT text tower, as somebody puts it together by hand: without a seal."""
    return hugging_face_folder(tmp_path / "model")


@pytest.fixture
def saved(folder, tmp_path):
    """The same folder as `sdmad save-backbone` writes it."""
    save_backbone(BackboneConfig(model=str(folder)), str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_a_saved_folder_seals_every_file(saved) -> None:
    sealed = json.loads((saved / folders.SEAL).read_text())["files"]
    others = {path.name for path in saved.iterdir()} - {folders.SEAL, folders.WEIGHTS[0]}
    assert set(sealed) == others
    assert {CONFIG, "config.json", "tokenizer.json"} <= set(sealed)


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        (CONFIG, '"context_length": 16', '"context_length": 8'),
        (CONFIG, "0.4", "0.5"),
        ("config.json", '"gelu"', '"relu"'),
        ("tokenizer.json", "crack", "crock"),
    ],
)
def test_a_file_that_was_changed_after_saving_is_named(saved, name, old, new) -> None:
    content = (saved / name).read_text()
    assert old in content
    (saved / name).write_text(content.replace(old, new))
    with pytest.raises(UserError, match=f"the file {name} is not the one that was saved"):
        load(BackboneConfig(model=str(saved)), "cpu")


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_a_file_that_is_missing_is_named(saved, name) -> None:
    (saved / name).unlink()
    with pytest.raises(UserError, match=f"the file {name} is missing"):
        load(BackboneConfig(model=str(saved)), "cpu")


@pytest.mark.parametrize("content", ["{", "{}", '{"weights": 3}', "[]"])
def test_a_seal_that_cannot_be_read_is_one_sentence(saved, content) -> None:
    (saved / folders.SEAL).write_text(content)
    with pytest.raises(UserError, match=f"its {folders.SEAL} cannot be read"):
        load(BackboneConfig(model=str(saved)), "cpu")


def test_without_a_seal_a_missing_vocabulary_is_named_and_no_hub_is_asked(folder) -> None:
    for path in [*folder.glob("vocab*"), *folder.glob("tokenizer*")]:
        path.unlink()
    with pytest.raises(UserError, match=r"has no tokenizer.json, the vocabulary of its tokenizer"):
        load(BackboneConfig(model=str(folder)), "cpu")


def test_without_a_seal_a_missing_text_configuration_is_named(folder) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config.json, the configuration of its text tower"):
        load(BackboneConfig(model=str(folder)), "cpu")


def test_an_input_that_is_not_known_is_one_sentence(folder) -> None:
    content = json.loads((folder / CONFIG).read_text())
    content["preprocess_cfg"]["resize_mode"] = "pad"
    (folder / CONFIG).write_text(json.dumps(content))
    with pytest.raises(UserError, match="cannot be used: resize_mode is one of"):
        load(BackboneConfig(model=str(folder)), "cpu")


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("std", [0, 0, 0], r"above 0 and at most 1, not \[0, 0, 0\]"),
        ("mean", [0.5, 0.5], "from 0 to 1, not"),
        ("mean", "x", "not x"),
    ],
)
def test_without_a_seal_an_input_that_cannot_be_is_refused(folder, key, value, told) -> None:
    content = json.loads((folder / CONFIG).read_text())
    content["preprocess_cfg"][key] = value
    (folder / CONFIG).write_text(json.dumps(content))
    with pytest.raises(
        UserError, match=f"its preprocess_cfg: {key} is three numbers .*{told}"
    ) as raised:
        load(BackboneConfig(model=str(folder)), "cpu")
    assert "\n" not in str(raised.value)


def test_without_a_seal_an_unknown_key_is_named(folder) -> None:
    content = json.loads((folder / CONFIG).read_text())
    content["model_cfg"]["foo"] = 1
    (folder / CONFIG).write_text(json.dumps(content))
    with pytest.raises(UserError, match="does not know the key 'foo' of its configuration"):
        load(BackboneConfig(model=str(folder)), "cpu")
