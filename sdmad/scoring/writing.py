"""Write finished units in a few threads, so that the driver does not wait for storage.

with UnitWriter(write) as writer:
    for unit, rows in ...:
        writer.add(unit, rows)
        writer.done()
"""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Generic, TypeVar

import pyarrow as pa

THREADS = 8
# Units that wait for a thread or are being written; `add` blocks at this number.
MOST_WAITING = 2 * THREADS

Result = TypeVar("Result")


class UnitWriter(Generic[Result]):
    """Calls `write(unit, rows)` in `THREADS` threads.

    `add` and `done` raise the first exception of a thread. At the end of the block all units are
    written; after an exception only those that threads have begun.
    """

    def __init__(self, write: Callable[[str, pa.Table], Result]) -> None:
        self.write = write
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="write")
        self._waiting: set[Future[Result]] = set()
        self._results: list[Result] = []

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
        # A job that is stopped does not wait for storage; units are written whole or not at all.
        self._pool.shutdown(
            wait=problem is None or isinstance(problem, Exception), cancel_futures=True
        )
        for future in self._waiting:
            if future.done() and not future.cancelled() and not future.exception():
                self._results.append(future.result())
        self._waiting.clear()
        if problem is not error and problem is not None:
            raise problem

    def add(self, unit: str, rows: pa.Table) -> None:
        """Have a unit written. Waits while `MOST_WAITING` units are in progress."""
        while len(self._waiting) >= MOST_WAITING:
            self._collect()
        self._waiting.add(self._pool.submit(self.write, unit, rows))

    def done(self) -> list[Result]:
        """What `write` has returned since the last call."""
        if any(future.done() for future in self._waiting):
            self._collect()
        results, self._results = self._results, []
        return results

    def _collect(self) -> None:
        """Wait until a unit is written, and take all that are."""
        finished, _ = wait(self._waiting, return_when=FIRST_COMPLETED)
        for future in finished:
            self._waiting.remove(future)
            self._results.append(future.result())
