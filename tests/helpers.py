"""Small things that several tests need."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import torch
from PIL import Image

from sdmad.archive.preprocess import ImageSpec
from sdmad.archive.selected import decode_members
from sdmad.fitting.worker import SupportRef
from sdmad.method.adapter import TowerAdapters
from sdmad.method.augment import SupportImages

ROOT = Path(__file__).parents[1]
S3_SECRET = "wJalrSECRETKEYdonotshow"  # noqa: S105 - a made-up key


def support_images(archive: str, ref: SupportRef, spec: ImageSpec) -> SupportImages:
    """A support with its pixels, read without Ray."""
    pixels, problems = decode_members(archive, ref.images, spec)
    assert not problems
    return ref.with_pixels(pixels)


def encoded(
    color: int | tuple[int, ...] = 128,
    size: tuple[int, int] = (20, 16),
    mode: str = "L",
    format: str = "PNG",
) -> bytes:
    """A plain image of one colour, encoded."""
    sink = io.BytesIO()
    Image.new(mode, size, color).save(sink, format)
    return sink.getvalue()


CRASH, HANG = b"CRASH-NOW", b"HANG-NOW"
# Images of this size end the process that resizes them. A file whose content has the mark of
# `FICKLE` also ends a child process that opens it, so that two attempts give different frames.
FATAL_SIZE, FICKLE = (33, 21), b"FICKLE"


def pages(*sizes: tuple[int, int], mark: bytes = b"") -> bytes:
    """A TIFF with a page of each size."""
    sink = io.BytesIO()
    first, *others = [Image.new("L", size, 40 * k) for k, size in enumerate(sizes)]
    first.save(sink, "TIFF", save_all=True, append_images=others, description=mark.decode())
    return sink.getvalue()


def killers(folder: Path) -> str:
    """A PYTHONPATH under which decoding ends or blocks the process.

    Pillow knows two more formats: one ends the process, one hangs in native code. `FATAL_SIZE` and
    `FICKLE` work too.
    """
    (folder / "sitecustomize.py").write_text(
        "import ctypes, os, signal, sys\n"
        "child = 'sdmad.archive.quarantine' in sys.orig_argv\n"
        "from PIL import Image, ImageFile\n"
        "class Crash(ImageFile.ImageFile):\n"
        "    def _open(self):\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "class Hang(ImageFile.ImageFile):\n"
        "    def _open(self):\n"
        "        ctypes.PyDLL(None).sleep(3600)\n"
        f"Image.register_open('CRASH', Crash, lambda start: start.startswith({CRASH!r}))\n"
        f"Image.register_open('HANG', Hang, lambda start: start.startswith({HANG!r}))\n"
        "resize, open_image = Image.Image.resize, Image.open\n"
        "def fatal_resize(self, *arguments, **options):\n"
        f"    if self.size == {FATAL_SIZE!r}:\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return resize(self, *arguments, **options)\n"
        "def fatal_open(stream, *arguments, **options):\n"
        f"    if child and {FICKLE!r} in stream.getvalue():\n"
        "        os.kill(os.getpid(), signal.SIGSEGV)\n"
        "    return open_image(stream, *arguments, **options)\n"
        "Image.Image.resize, Image.open = fatal_resize, fatal_open\n"
        "if child:\n"
        "    import tifffile\n"
        "    open_tiff = tifffile.TiffFile\n"
        "    def fatal_tiff(stream):\n"
        f"        if {FICKLE!r} in stream.getvalue():\n"
        "            os.kill(os.getpid(), signal.SIGSEGV)\n"
        "        return open_tiff(stream)\n"
        "    tifffile.TiffFile = fatal_tiff\n"
    )
    return os.pathsep.join([str(folder), str(ROOT)])


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    """A tar of members in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def workers(kind: str) -> list[psutil.Process]:
    """The worker processes of this session's Ray whose title names `kind` now."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            title = " ".join(process.cmdline())
            if title.startswith("ray::") and kind in title:
                found.append(process)
    return found


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


def run_command(command: Callable[..., Any], *arguments: object) -> Ended:
    """Run one of `sdmad.commands` in this process, through the code that every job goes through:
    the same parsing of options, the same messages, the same exit codes."""
    from sdmad.runtime import cli

    name = command.__name__.replace("_", "-")
    return captured(lambda: cli.run_command(command), name, *arguments)


def captured(main: Callable[[], Any], program: str, *arguments: object) -> Ended:
    """Call the entry point of a program in this process with `arguments` on its command line."""
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGTERM)
    code = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", [program, *map(str, arguments)]))
        stack.enter_context(mock.patch.dict(os.environ, COLUMNS="200"))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            signal.signal(signal.SIGTERM, handler)
    return Ended(code, out.getvalue(), err.getvalue())


def run_job(job: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run `python jobs/<job>.py` in a process of its own, as a user would: seconds of imports."""
    return subprocess.run(
        [sys.executable, f"jobs/{job}.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"COLUMNS": "200"},
    )


def draw_adapters(adapters: TowerAdapters, seeds: int) -> TowerAdapters:
    """The adapters with other weights for each seed, as after training: W2 is not zero."""
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        adapters.initialise(seed, generator)
        for layer in adapters.layers:
            drawn = torch.randn(layer.up[seed].shape, generator=generator)
            layer.up.data[seed] = 0.3 * drawn / len(drawn) ** 0.5
    return adapters
