"""Notice that the head of a Ray cluster is lost.

    watch("10.0.0.1:6379")

Ray looks for a lost head for a minute. Then it ends the process of the driver with exit code 1 and
without a word. This ends the job before, with one sentence and exit code 2.
"""

import socket
import threading
import time

import ray

from sdmad.runtime import cli

PROBE_SECONDS = 3.0
LOST_SECONDS = 30.0
_watched: list[str] = []


def watch(address: str) -> None:
    """End this job if nothing answers at the address of its head for `LOST_SECONDS`.

    Does nothing outside of a command (`cli.run_app`): a library must not end its process.
    """
    if cli.in_charge() and not _watched:
        _watched.append(address)
        threading.Thread(target=_watch, args=(address,), daemon=True).start()


def lost() -> str:
    """The sentence for a lost head; empty if the head of this job answers, or none is watched."""
    if not _watched or any(_answers(_watched[0]) for _ in range(2)):
        return ""
    return _sentence(_watched[0])


def _watch(address: str) -> None:
    answered = time.monotonic()
    while ray.is_initialized():
        if _answers(address):
            answered = time.monotonic()
        elif time.monotonic() - answered > LOST_SECONDS:
            cli.end(_sentence(address))
        time.sleep(PROBE_SECONDS)


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True


def _sentence(address: str) -> str:
    return (
        f"the Ray head at {address} is lost: it no longer answers; start a cluster, then run the "
        "same command again to resume"
    )
