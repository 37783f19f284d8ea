"""Make a Python environment for each peer under `runs/peers`, from its pinned requirements.

    python benchmarks/peers/make_environments.py            # those that are missing or out of date
    python benchmarks/peers/make_environments.py --pin      # renew requirements.txt first

Packages come from the index that uv is configured for; PyTorch is the normal build of that index,
as for sdmad. clip-retrieval needs `setuptools<80`, and curl on the path to stream shards.
"""

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = ("dataloader", "clip_retrieval", "daft")
PYTHON = "3.11"


def environment(peer: str) -> Path:
    """The folder of a peer's environment, whether it exists or not."""
    return HERE.parent.parent / "runs" / "peers" / peer


def is_ready(peer: str) -> bool:
    """Whether the environment is complete and made from the present requirements."""
    made, wanted = _marker(peer), HERE / peer / "requirements.txt"
    return made.is_file() and filecmp.cmp(made, wanted, shallow=False)


def _marker(peer: str) -> Path:
    return environment(peer) / "requirements-installed.txt"


def uv(*arguments: str | Path) -> None:
    """Run uv: the one beside this interpreter, or the one on the path."""
    beside = Path(sys.executable).with_name("uv")
    program = str(beside) if beside.is_file() else shutil.which("uv")
    if program is None:
        raise SystemExit("uv is missing; install it: pip install uv")
    subprocess.run([program, *map(str, arguments)], check=True)


def pin(peer: str) -> None:
    """Pin `requirements.in` in `requirements.txt`, for every platform."""
    wanted, pinned = HERE / peer / "requirements.in", HERE / peer / "requirements.txt"
    options = ("--quiet", "--upgrade", "--universal", "--no-annotate", "--no-header")
    uv("pip", "compile", *options, "--python-version", PYTHON, "--output-file", pinned, wanted)


def make(peer: str) -> None:
    """Make the environment unless it is ready."""
    place = environment(peer)
    if is_ready(peer):
        print(f"{peer}: is ready")
        return
    shutil.rmtree(place, ignore_errors=True)
    uv("venv", "--quiet", "--python", sys.executable, place)
    requirements = HERE / peer / "requirements.txt"
    options = ("--quiet", "--compile-bytecode", "--python", place / "bin" / "python")
    uv("pip", "install", *options, "--requirement", requirements)
    shutil.copyfile(requirements, _marker(peer))
    print(f"{peer}: made {os.path.relpath(place)}")


def main() -> None:
    """Make the environments that the command line names, by default all."""
    parser = argparse.ArgumentParser(description="Make a Python environment for each peer.")
    parser.add_argument("peers", nargs="*", help=f"which; default: {' '.join(PEERS)}")
    parser.add_argument("--pin", action="store_true", help="renew requirements.txt first")
    given = parser.parse_args()
    if unknown := set(given.peers) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}")
    for peer in given.peers or PEERS:
        if given.pin:
            pin(peer)
        make(peer)


if __name__ == "__main__":
    main()
