"""Where a training run keeps its fits: `fits/shots=<k>/seed=<n>.safetensors` under its output.

Shots are a number, or the name of other shots (`sdmad.inputs.shots.key`). Fits that a refit has
replaced are below `earlier/<digest of the label table>/`, laid out in the same way.
"""

import re

from sdmad.storage import files
from sdmad.storage.objects import StoredObject

_PATH = re.compile(r"shots=([a-z0-9._-]+)/seed=(\d+)\.safetensors$")
EARLIER = "earlier"
Key = tuple[int | str, int]


def detector_uri(output: str, shots: int | str) -> str:
    """The folder with the fits of all seeds at `shots`, of the training run at `output`."""
    return files.join(output, "fits", f"shots={shots}")


def fit_uri(output: str, shots: int | str, seed: int) -> str:
    """The URI of the fit (shots, seed) of the training run at `output`."""
    return files.join(detector_uri(output, shots), f"seed={seed}.safetensors")


def fit_key(uri: str) -> Key | None:
    """(shots, seed) of the fit at `uri`, from its path; None if it is not the path of a fit."""
    match = _PATH.search(uri)
    return (int(match[1]) if match[1].isdigit() else match[1], int(match[2])) if match else None


def entries(output: str) -> dict[Key, StoredObject]:
    """The finished fits of the training run at `output`, by (shots, seed); one listing."""
    found = {}
    for entry in files.list_objects(files.join(output, "fits")):
        key = fit_key(entry.uri)
        if key:
            found[key] = entry
    return found


def list_fits(output: str) -> dict[Key, str]:
    """URIs of the finished fits of the training run at `output`, by (shots, seed); one listing."""
    return {key: entry.uri for key, entry in entries(output).items()}
