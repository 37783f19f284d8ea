"""Where a training run keeps its fits: `fits/shots=<k>/seed=<n>.safetensors` under its output."""

import re

from sdmad.storage import files

_PATH = re.compile(r"fits/shots=(\d+)/seed=(\d+)\.safetensors$")


def fit_uri(output: str, shots: int, seed: int) -> str:
    """The URI of the fit (shots, seed) of the training run at `output`."""
    return files.join(output, "fits", f"shots={shots}", f"seed={seed}.safetensors")


def list_fits(output: str) -> dict[tuple[int, int], str]:
    """URIs of the finished fits of the training run at `output`, by (shots, seed); one listing."""
    found = {}
    for entry in files.list_objects(files.join(output, "fits")):
        match = _PATH.search(entry.uri)
        if match:
            found[int(match[1]), int(match[2])] = entry.uri
    return found
