"""Connect to a Ray cluster, or start Ray on this machine for this process."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray._private import ray_constants

from sdmad import logs
from sdmad.errors import UserError

# For processes that compute in several threads; OpenMP reads it when a process starts. Waiting
# threads then sleep. By default they spin for milliseconds on cores that other processes need, and
# two fits on one node take at least twice as long (benchmarks/thread_waits.py).
THREADS_SLEEP = {"OMP_WAIT_POLICY": "passive"}


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
    never transports credentials.
    """
    names = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
    passed = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # Silence Ray's warnings about GPU counts and actor arguments, which bury the job's messages.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Otherwise Ray refuses a variable that the submitter of the job has set too, even if equal.
    os.environ.setdefault("RAY_OVERRIDE_JOB_RUNTIME_ENV", "1")
    fixed = "RAY_ADDRESS" not in os.environ
    if not ray.is_initialized():
        with _sigterm_kept(), _stderr_closed(), _on_loopback(fixed):
            ray.init(
                address="local" if fixed else None,
                runtime_env={"env_vars": passed} if passed else None,
                include_dashboard=False if fixed else None,
                logging_level=logging.ERROR,
                log_to_driver=False,
            )
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
        mistake = _find_mistake(error)
        if mistake is None or mistake is error:
            raise
        raise UserError(str(mistake)) from None


def _find_mistake(error: BaseException | None, depth: int = 8) -> UserError | None:
    if error is None or depth == 0:
        return None
    if isinstance(error, UserError):
        return error
    failures = getattr(error, "worker_failures", {})
    inner = [error.__cause__, getattr(error, "cause", None), *failures.values()]
    found = (_find_mistake(e, depth - 1) for e in inner if isinstance(e, BaseException))
    return next((mistake for mistake in found if mistake), None)


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
