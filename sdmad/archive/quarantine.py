"""Decode in a child process, for files that may crash a decoder or make it hang.

    with Decoder(spec, seconds=60) as decoder:
        frames = list(decoder.frames(content))

Normally readers decode in their own process, which is fastest. A watchdog ends the process if one
frame takes too long. When a reader has died, its unit is read again, and every file is decoded by a
`Decoder`. If the child process crashes or hangs, that is the reason of this frame in the failures
table, and the other frames and files of the unit are still decoded. The child's memory is limited.
Its answers are JSON and raw pixels, which cannot carry code.
"""

import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from types import TracebackType
from typing import IO

import numpy as np
from pydantic import TypeAdapter

from sdmad.archive import decode
from sdmad.archive.decode import Frame
from sdmad.archive.preprocess import ImageSpec

ATTEMPTS = 2
MOST_CRASHES = 4
MEMORY_BYTES = 8 << 30
DECODE_SECONDS = 120.0
START_SECONDS = 120.0
_HEADER = struct.Struct("<QQ")
_READY = (0x73646D6164, 1)


@contextmanager
def watchdog(seconds: float) -> Iterator[None]:
    """End this process if the block takes longer than `seconds`, even inside native code.

    SIGALRM has no handler here, so the kernel ends the process.
    """
    # Costs microseconds. faulthandler's timer starts a thread per call: 0.5 ms per image.
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Decoder:
    """A child process that decodes. It starts on first use, and again after each crash."""

    def __init__(self, spec: ImageSpec, seconds: float = DECODE_SECONDS) -> None:
        self.spec = spec
        self.seconds = seconds
        self.child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Decoder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def frames(self, content: bytes) -> Iterator[Frame]:
        """All frames of a file, as `decode.frames` gives them.

        A frame that crashes the child or takes too long, `ATTEMPTS` times, has no pixels but the
        reason; the frames after it are decoded. After `MOST_CRASHES` such frames, the rest of the
        file is not tried. A file that cannot be opened is one frame.
        """
        count, done, crashes, tries = 0, 0, 0, 0
        while True:
            try:
                for answer in self._ask(content, done):
                    if isinstance(answer, int):
                        count = max(count, answer)
                        continue
                    done, tries = done + 1, 0
                    yield answer
                return
            except TimeoutError:
                reason = f"the decoder did not return within {self.seconds:g} seconds"
            except (EOFError, BrokenPipeError):
                reason = f"the decoder crashed ({self._cause()})"
            except GeneratorExit:
                self._end()  # Its answers would be taken for those to the next file.
                raise
            self._end()
            tries += 1
            if tries < ATTEMPTS:
                continue
            if count < 2:
                yield Frame(None, None, f"quarantined: {reason}")
                return
            done, crashes, tries = done + 1, crashes + 1, 0
            yield Frame(done, None, f"quarantined: {reason}")
            if crashes == MOST_CRASHES:
                reason = f"quarantined: {crashes} other frames crashed the decoder or took too long"
                yield from (Frame(number + 1, None, reason) for number in range(done, count))
                return
            if done == count:
                return

    def _ask(self, content: bytes, start: int) -> Iterator[int | Frame]:
        """The number of frames in the file, then each frame from the one at index `start`."""
        child = self.child or self._start()
        if child.stdin is None or child.stdout is None:
            raise AssertionError("the child has pipes")
        left = memoryview(_HEADER.pack(len(content), start) + content)
        while left:
            left = left[child.stdin.write(left) :]
        while True:
            size, pixels = _header(child.stdout, self.seconds)
            if size == 0:
                return
            fields = json.loads(_exactly(child.stdout, size))
            if "count" in fields:
                yield fields["count"]
                continue
            frame = None
            if pixels:
                flat = np.frombuffer(_exactly(child.stdout, pixels), np.uint8)
                frame = flat.reshape((*self.spec.size, 3))
            yield Frame(fields["number"], frame, fields["reason"])

    def _start(self) -> subprocess.Popen[bytes]:
        spec = json.dumps(asdict(self.spec))
        self.child = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "sdmad.archive.quarantine", spec],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        if self.child.stdout is None:
            raise AssertionError("the child has pipes")
        # The child's imports do not count against the time of a file.
        try:
            ready = _header(self.child.stdout, START_SECONDS)
        except (TimeoutError, EOFError):
            ready = None
        if ready != _READY:
            self._end()
            raise RuntimeError("the child process that decodes in quarantine did not start")
        return self.child

    def _cause(self) -> str:
        code = self.child.wait() if self.child else 0
        with suppress(ValueError):
            return signal.Signals(-code).name
        return f"exit code {code}"

    def _end(self) -> None:
        if self.child:
            self.child.kill()
            self.child.communicate()
        self.child = None


def _header(stream: IO[bytes], seconds: float) -> tuple[int, int]:
    """The two sizes that precede data. Raises `TimeoutError` after `seconds` without data."""
    if not select.select([stream], [], [], seconds)[0]:
        raise TimeoutError
    size, pixels = _HEADER.unpack(_exactly(stream, _HEADER.size))
    return size, pixels


def _exactly(stream: IO[bytes], size: int) -> bytes:
    parts = []
    while size:
        part = stream.read(size)
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _serve(spec: ImageSpec) -> None:
    """The child's loop: read files from stdin and write frames to stdout until stdin ends."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    # Native decoders may print to stdout: send that to stderr, away from the frames.
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sink.write(_HEADER.pack(*_READY))
    sink.flush()

    def send(fields: dict[str, object], pixels: bytes = b"") -> None:
        text = json.dumps(fields).encode()
        sink.write(_HEADER.pack(len(text), len(pixels)))
        sink.write(text)
        sink.write(pixels)
        sink.flush()

    with suppress(EOFError):
        while True:
            size, start = _HEADER.unpack(_exactly(source, _HEADER.size))
            content = _exactly(source, size)
            send({"count": decode.count_frames(content, spec)})
            for frame in decode.frames(content, spec, start):
                pixels = b"" if frame.pixels is None else frame.pixels.tobytes()
                send({"number": frame.number, "reason": frame.reason}, pixels)
            sink.write(_HEADER.pack(0, 0))
            sink.flush()


if __name__ == "__main__":
    _serve(TypeAdapter(ImageSpec).validate_json(sys.argv[1]))
