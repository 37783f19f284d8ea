"""Search by frozen embeddings: every image is compared."""

import numpy as np
import pytest

from sdmad.archive.decode import decode
from sdmad.commands.similar import similar
from sdmad.scoring import similar as searching
from sdmad.scoring.similar import Search
from sdmad.storage import parquet
from tests.helpers import Ended, run_command, write_tar
from tests.scoring.helpers import Encoded, encoded_phantom
from tests.scoring.test_encode import refused


@pytest.fixture
def encoded_twice(store: Encoded) -> Encoded:
    """Phantoms 0 to 9 in one shard, 20 and 21 loose, and 0 to 2 again in another shard."""
    write_tar(store.archive / "again.tar", {f"copy-{k}.png": encoded_phantom(k) for k in range(3)})
    assert store.encode().returncode == 0
    return store


def search(encoded: Encoded, *options: object) -> Ended:
    return run_command(similar, "--activations", encoded.activations, *options)


def test_the_nearest_images_are_those_of_all_cosines(encoded_twice, backbone, tmp_path) -> None:
    query = tmp_path / "query.png"
    query.write_bytes(encoded_phantom(4))
    result = search(encoded_twice, "--image", query, "--top", 5, "--output", tmp_path / "t.parquet")
    assert result.returncode == 0, result.stderr
    numbers = [*range(10), 20, 21, 0, 1, 2]
    pixels = np.stack([decode(encoded_phantom(k), backbone.spec) for k in numbers])
    embeddings = backbone.embed_images(pixels).numpy()
    cosines = np.sort(embeddings @ embeddings[4])[::-1]
    table = parquet.decode((tmp_path / "t.parquet").read_bytes())
    assert table.column_names == ["uri", "cosine"]
    assert table["uri"][0].as_py().endswith("s0.tar#04.png")
    found = table["cosine"].to_numpy()
    assert len(found) == 5
    # x.jpg, of no phantom, is not among the nearest.
    assert np.allclose(found, cosines[:5], atol=1e-3)
    assert result.stdout.splitlines()[0].split() == ["1.0000", table["uri"][0].as_py()]


def test_a_text_is_a_query(encoded_twice, backbone) -> None:
    found = Search.open(str(encoded_twice.activations))
    text = "a dark round mass"
    [query] = found.of_texts([text])
    assert np.allclose(query, backbone.embed_texts([text])[0].numpy(), atol=1e-6)
    every = found.nearest(query, 100)
    assert len(every) == 16
    assert every == sorted(every, key=lambda one: (-one[0], one[1]))
    assert search(encoded_twice, "--text", text, "--top", 3).stdout.count("\n") == 3


@pytest.mark.parametrize("block", [3, 1 << 16])
def test_duplicates_are_named_once_each(encoded_twice, tmp_path, monkeypatch, block) -> None:
    monkeypatch.setattr(searching, "BLOCK", block)
    monkeypatch.setattr(searching, "ROWS", 4)
    target = tmp_path / "pairs.parquet"
    result = search(encoded_twice, "--duplicates-above", 0.9999, "--output", target)
    assert result.returncode == 0, result.stderr
    assert "3 pairs with a cosine of 0.9999 or more" in result.stdout
    pairs = parquet.decode(target.read_bytes()).to_pylist()
    names = {frozenset(uri.rpartition("#")[2] for uri in (p["uri"], p["other"])) for p in pairs}
    assert names == {frozenset((f"0{k}.png", f"copy-{k}.png")) for k in range(3)}


def test_embeddings_of_some_images_are_those_of_the_backbone(store, backbone) -> None:
    assert store.encode().returncode == 0
    search = Search.open(str(store.activations))
    known = {
        uri: e
        for unit in search.units
        for uris, some in search.batches(unit)
        for uri, e in zip(uris.to_pylist(), some, strict=True)
    }
    wanted = [*sorted(known)[::-3], "nowhere.png"]
    found = search.embeddings(wanted)
    assert np.allclose(found[:-1], [known[uri] for uri in wanted[:-1]])
    assert np.isnan(found[-1]).all()
    assert np.isnan(search.embeddings(["nowhere.png"])).all()


def test_mistakes_are_one_sentence(encoded_twice, tmp_path) -> None:
    refused(search(encoded_twice), "give one of --image, --text and --duplicates-above")
    refused(search(encoded_twice, "--image", tmp_path / "no.png"), "there is no image")
    (tmp_path / "bad.png").write_bytes(b"x")
    refused(search(encoded_twice, "--image", tmp_path / "bad.png"), "cannot be used")
    encoded_twice.activations = tmp_path
    refused(search(encoded_twice, "--text", "x"), "there are no activations at")
