"""Connecting to Ray: the cluster that is there, or one on this machine for this process."""

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

# What OpenMP reads when a process starts that computes in several threads: threads that wait for
# each other sleep. By default they spin for milliseconds on cores that others need: two fits on one
# node then take twice as long or longer (benchmarks/thread_waits.py).
THREADS_SLEEP = {"OMP_WAIT_POLICY": "passive"}


@dataclass(frozen=True)
class Resources:
    """What the cluster has when a job begins; `fixed` when it cannot grow (this machine)."""

    cpus: float
    gpus: float
    fixed: bool = False


def connect() -> Resources:
    """Connect to the cluster of `RAY_ADDRESS` (as in `ray job submit`), or start a local one that
    listens on the loopback interface only.

    Workers of a cluster get the S3 endpoint and region of this process; credentials come from
    their own chain (instance role, service account), never through Ray.
    """
    names = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
    passed = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    # Ray's own notices would drown the job's: warnings about numbers of GPUs and actor arguments.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # The submitter of a job may have set the same variables; equal values are no conflict.
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
    """CPUs that Ray has on the node of this task or actor, at least one. In a container they may be
    far fewer than those of the machine."""
    here = ray.get_runtime_context().get_node_id()
    resources = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return max(1, int(resources.get("CPU", 1)))


def gpus_each(wanted: float | None, resources: Resources, option: str) -> float:
    """GPUs of one actor or worker: what is wanted, else one where there are GPUs, else none.

    A cluster that grows may have none yet, and does not tell what it could have: a notice on stderr
    then names the `option` that asks for them.
    """
    if wanted is not None:
        return wanted
    if resources.gpus >= 1:
        return 1.0
    if not resources.fixed:
        notice = f"the cluster has no GPU now, so none is used; {option} asks for one"
        if logs.wanted():
            logs.log("notice", text=notice)
        else:
            print(f"notice: {notice}", file=sys.stderr, flush=True)
    return 0.0


def attempt() -> int:
    """How often the running Ray task was begun before; 0 outside of tasks."""
    worker: Any = ray._private.worker.global_worker  # Ray 2.60 tells it nowhere else.
    return worker.core_worker.get_current_task_attempt_number() if worker.connected else 0


@contextmanager
def mistakes_surface() -> Iterator[None]:
    """Let a `UserError` raised in another process come out as itself, not wrapped by Ray."""
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
    """A Ray that starts meanwhile listens on the loopback interface only.

    What RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 does when it is set before Ray is imported.
    """
    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = before and not wanted
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """`ray.init` takes SIGTERM over; give it back to the job."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _stderr_closed() -> Iterator[None]:
    """Keeps what native code writes to stderr while Ray starts (its log level) off the screen.

    Failures of Ray are exceptions and get through.
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
