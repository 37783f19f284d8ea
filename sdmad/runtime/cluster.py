"""Connect to a Ray cluster, or start Ray on this machine for this process."""

import logging
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import fsspec
import ray
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray._private import ray_constants
from ray.exceptions import RayError

from sdmad import logs
from sdmad.errors import UserError
from sdmad.runtime import head

# Environment of the processes that compute with a model; it is read when they start.
#
# Waiting threads sleep. By default they spin for milliseconds on cores that other processes need,
# and two fits on one node take at least twice as long (benchmarks/thread_waits.py).
THREADS_SLEEP = {"OMP_WAIT_POLICY": "passive"}
# Large freed buffers stay with the process, in a single arena that is never trimmed. By default
# glibc returns them to the kernel, and the next layer faults their pages in again: a twentieth to a
# tenth of the time of a ViT on CPUs, and up to half of that of convolutions
# (benchmarks/freed_buffers.py).
BUFFERS_STAY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 34),
}
MODEL_ENVIRONMENT = THREADS_SLEEP | BUFFERS_STAY

# Seconds that a head may take to answer, for example while it starts.
HEAD_SECONDS = 30.0
# Ray gives up on a head that does not answer by `sys.exit(15)`.
RAY_GAVE_UP = 15
# Ray's sockets are at most this long, including 66 characters below RAY_TMPDIR.
LONGEST_SOCKET = 107


@dataclass(frozen=True)
class Resources:
    """CPUs and GPUs of the cluster when a job starts; `fixed` if it cannot grow (this machine)."""

    cpus: float
    gpus: float
    fixed: bool = False


def connect() -> Resources:
    """Connect to the cluster in `RAY_ADDRESS` (set by `ray job submit`), or start Ray here.

    Ray on this machine listens on the loopback interface only. Workers get the S3 endpoint and
    region of this process. They find credentials themselves (instance role, service account); Ray
    never transports credentials. An empty `RAY_ADDRESS`, or `local`, is this machine. If the head
    of a cluster is lost later, the job ends (`sdmad.runtime.head`).

    Raises `UserError` if Ray cannot be started, or the head cannot be reached within
    `HEAD_SECONDS`.
    """
    names = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
    passed = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # Silence Ray's warnings about GPU counts and actor arguments, which bury the job's messages.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Otherwise Ray refuses a variable that the submitter of the job has set too, even if equal.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    address = os.environ.get("RAY_ADDRESS", "").strip()
    fixed = address in ("", "local")
    if fixed:
        os.environ.pop("RAY_ADDRESS", None)
    if not ray.is_initialized():
        if not fixed:
            _wait_for_head(address)
        with _refusals(address), _sigterm_kept(), _stderr_closed(), _on_loopback(fixed):
            ray.init(
                address="local" if fixed else address,
                runtime_env={"env_vars": passed} if passed else None,
                include_dashboard=False if fixed else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
        if not fixed:
            head.watch(ray.get_runtime_context().gcs_address)
    total = ray.cluster_resources()
    return Resources(total.get("CPU", 0.0), total.get("GPU", 0.0), fixed)


def node_cpus() -> int:
    """CPUs that Ray has on the node of this task or actor, at least 1.

    In a container the machine may have many more.
    """
    here = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return max(1, int(resources.get("CPU", 1)))


def gpus_each(wanted: float | None, resources: Resources, option: str) -> float:
    """GPUs of one actor or worker: `wanted` if given, else 1 if the cluster has GPUs, else 0.

    A cluster that can grow may have no GPU yet. Then a notice on stderr names the `option` that
    requests GPUs.
    """
    if wanted is not None:
        return wanted
    if resources.gpus >= 1:
        return 1.0
    if not resources.fixed:
        logs.notice(f"the cluster has no GPU now, so none is used; request one with {option}")
    return 0.0


def kept_in_memory() -> dict[str, Any]:
    """Arguments of `ray.train.RunConfig` for a job that reports no checkpoints.

    Ray Train's own files stay in the memory of its processes, so that no folder is left behind.
    """
    memory = FSSpecHandler(fsspec.filesystem("memory"))
    return {"storage_path": "sdmad-train", "storage_filesystem": PyFileSystem(memory)}


def attempt() -> int:
    """How many attempts at the running Ray task came before this one; 0 outside of tasks."""
    worker: Any = ray._private.worker.global_worker  # Ray 2.60 has no public API for this.
    return worker.core_worker.get_current_task_attempt_number() if worker.connected else 0


@contextmanager
def mistakes_surface() -> Iterator[None]:
    """Re-raise a `UserError` of another process as itself, without Ray's wrappers."""
    try:
        yield
    except Exception as error:
        sentence = _find_mistake(error)
        if sentence is None or sentence == str(error):
            raise
        raise UserError(sentence) from None


def _find_mistake(error: BaseException | None, depth: int = 12) -> str | None:
    """The sentence of the `UserError` that caused an error; None if there was none."""
    if error is None or depth == 0:
        return None
    # Ray's exception for a failed task is an instance of the class of its cause, too.
    if isinstance(error, UserError) and not isinstance(error, RayError):
        # Ray Data adds lines about its own retries.
        return next(iter(str(error).splitlines()), "")
    failures = getattr(error, "worker_failures", {})
    inner = [getattr(error, "cause", None), error.__cause__, error.__context__, *failures.values()]
    found = (_find_mistake(e, depth - 1) for e in inner if isinstance(e, BaseException))
    return next((sentence for sentence in found if sentence), None) or _last_mistake(error)


def _last_mistake(error: BaseException) -> str | None:
    """The last `UserError` in the traceback that an error of Ray quotes.

    An actor that fails while it is created leaves only this text.
    """
    if not isinstance(error, RayError):
        return None
    # Ray adds subclasses of its own, called RayTaskError(...).
    kinds = [kind for kind in UserError.__subclasses__() if not issubclass(kind, RayError)]
    mistakes = {"UserError", *(kind.__name__ for kind in kinds)}
    lines = re.findall(rf"^(?:[\w.]+\.)?(?:{'|'.join(mistakes)}): (.+)$", str(error), re.MULTILINE)
    return lines[-1] if lines else None


def _wait_for_head(address: str) -> None:
    """Raise `UserError` if nothing answers at the address of a Ray head within `HEAD_SECONDS`."""
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS is {address}, an address for `ray job submit`; unset it to run on this "
            "machine, or submit the job"
        )
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    deadline, told = time.monotonic() + HEAD_SECONDS, False
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except (OSError, OverflowError) as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"no Ray head answers at RAY_ADDRESS={address} ({_reason(error)}); "
                    "start the cluster, correct the address, or unset it to run on this machine"
                ) from None
        if not told:
            logs.notice(f"no Ray head answers at {address} yet; trying for {HEAD_SECONDS:.0f} s")
            told = True
        time.sleep(1)


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()


@contextmanager
def _refusals(address: str) -> Iterator[None]:
    """Turn what `ray.init` raises into one sentence."""
    try:
        yield
    except SystemExit as error:
        if error.code != RAY_GAVE_UP:
            raise
        raise UserError(
            f"what answers at RAY_ADDRESS={address} is not a running Ray head; correct the "
            "address, or unset it to run on this machine"
        ) from None
    except (OSError, ValueError, RuntimeError, RayError) as error:
        folder = os.environ.get("RAY_TMPDIR", "")
        if "AF_UNIX" in str(error):
            most = LONGEST_SOCKET - 66
            raise UserError(
                f"the folder RAY_TMPDIR={folder} is too long for Ray's sockets; "
                f"give one of at most {most} characters"
            ) from None
        first = next(iter(str(error).splitlines()), "") or type(error).__name__
        what = f"connect to RAY_ADDRESS={address}" if address not in ("", "local") else "start here"
        hint = f"; check RAY_TMPDIR={folder}" if folder and isinstance(error, OSError) else ""
        raise UserError(f"Ray cannot {what}: {first}{hint}") from None


@contextmanager
def _on_loopback(wanted: bool) -> Iterator[None]:
    """If `wanted`, Ray started inside the block listens on the loopback interface only.

    RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 does the same, but only before Ray is imported.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and not wanted
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Restore the job's SIGTERM handler, which `ray.init` replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Hide what native code writes to stderr while Ray starts, such as its log level.

    If Ray fails to start, it raises an exception, which is not hidden.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - a device, not a path
        os.dup2(nowhere.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
