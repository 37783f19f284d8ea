"""Loading a model without side effects on the process that loads it."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import open_clip

_HUB = "huggingface_hub.utils._http"
_PACKAGE = str(Path(open_clip.__file__).parent)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep open_clip's messages off the root logger, which it uses directly, in this thread.

    They concern weights that were asked to be left out; mistakes are exceptions. The root logger
    keeps its level and handlers: without a handler, the first message would add one for good. The
    hub's client repeats each retry as a warning: where no hub is reached, the exception says so.
    """
    root, hub, thread = logging.getLogger(), logging.getLogger(_HUB), threading.get_ident()

    def from_elsewhere(record: logging.LogRecord) -> bool:
        ours = record.name == _HUB or record.pathname.startswith(_PACKAGE)
        return record.thread != thread or not ours

    silent = logging.NullHandler()
    root.addHandler(silent)
    root.addFilter(from_elsewhere)
    hub.addFilter(from_elsewhere)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub.removeFilter(from_elsewhere)
        root.removeFilter(from_elsewhere)
        root.removeHandler(silent)
