"""Write finished units in a few threads, so that the driver does not wait for storage.

with UnitWriter(write) as writer:
    for unit, rows in ...:
        writer.add(unit, rows)
        for result in writer.done():
            ...
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, TypeVar

import pyarrow as pa

THREADS = 8
# Units that wait for a thread or are being written; `add` blocks at this number.
MOST_WAITING = 2 * THREADS
# How long a stopped run waits for units that are being written, so that `run.json` counts them.
# `ray job stop` kills a driver 3 s after SIGTERM.
STOP_SECONDS = 2.0

Result = TypeVar("Result")


class UnitWriter(Generic[Result]):
    """Calls `write(unit, rows)` in `THREADS` threads.

    `add` and `done` raise the first exception of a thread. At the end of the block all units are
    written; after an exception only those that threads have begun. A stop (`SystemExit`,
    `KeyboardInterrupt`) waits at most `STOP_SECONDS` for them.
    """

    def __init__(self, write: Callable[[str, pa.Table], Result]) -> None:
        self.write = write
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="write")
        self._waiting: set[Future[None]] = set()
        # A stop can come between any two steps of the driver, so threads keep count themselves.
        self._results: deque[Result] = deque()
        self._writing = 0
        self._changed = threading.Condition()

    def __enter__(self) -> "UnitWriter[Result]":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        problem = error
        try:
            while self._waiting and problem is None:
                self._collect()
        except BaseException as failed:
            problem = failed
        stopped = problem is not None and not isinstance(problem, Exception)
        self._pool.shutdown(wait=not stopped, cancel_futures=True)
        with self._changed:
            self._changed.wait_for(lambda: not self._writing, timeout=STOP_SECONDS)
        self._waiting.clear()
        if problem is not error and problem is not None:
            raise problem

    def add(self, unit: str, rows: pa.Table) -> None:
        """Have a unit written. Waits while `MOST_WAITING` units are in progress."""
        while len(self._waiting) >= MOST_WAITING:
            self._collect()
        self._waiting.add(self._pool.submit(self._write, unit, rows))

    def done(self) -> Iterator[Result]:
        """What `write` has returned since the last call, each result once."""
        if any(future.done() for future in self._waiting):
            self._collect()
        while self._results:
            yield self._results.popleft()

    def _write(self, unit: str, rows: pa.Table) -> None:
        with self._changed:
            self._writing += 1
        try:
            self._results.append(self.write(unit, rows))
        finally:
            with self._changed:
                self._writing -= 1
                self._changed.notify_all()

    def _collect(self) -> None:
        """Wait until a unit is written, and raise the exception of one that could not be."""
        finished, self._waiting = wait(self._waiting, return_when=FIRST_COMPLETED)
        for future in finished:
            future.result()
