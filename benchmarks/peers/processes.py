"""Measure the time and CPU of a program with all processes that it starts.

    cost = run_measured(["python", "job.py"], env, cwd, log, timeout=3600)
    cost.seconds, cost.cpu_seconds, cost.others_seconds, cost.by_title

Processes that the program detaches or leaves behind (Ray does both) are counted, and are ended
before the call returns. Needs Linux.
"""

import ctypes
import os
import signal
import subprocess
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
POLL_SECONDS = 0.02
SAMPLE_SECONDS = 0.5
LEFT_SECONDS = 15.0
IDLE = "ray::IDLE"
PR_SET_CHILD_SUBREAPER = 36  # prctl(2)

Key = tuple[int, int]


@dataclass(frozen=True)
class Cost:
    """What a program took.

    `seconds`: wall clock until it ended. `cpu_seconds`: CPU of it and its descendants.
    `others_seconds`: CPU of all other processes of the machine in that time. `by_title`: CPU of the
    program and its descendants by the beginning of the command line. A Ray worker names its task
    there; its seconds go to the task seen last.
    """

    seconds: float
    cpu_seconds: float
    others_seconds: float
    by_title: dict[str, float]


@dataclass(frozen=True)
class _Process:
    parent: int
    ended: bool
    ticks: int


@dataclass
class _Account:
    """Last seen ticks of the program's processes, and their sums by title."""

    ticks: dict[Key, int] = field(default_factory=dict)
    titles: dict[Key, str] = field(default_factory=dict)
    by_title: Counter[str] = field(default_factory=Counter)

    def note(self, key: Key, ticks: int) -> None:
        # An ended or idle process has no title, but may have worked since it was last seen.
        self.titles[key] = _title(key[0]) or self.titles.get(key, "")
        self.by_title[self.titles[key]] += ticks - self.ticks.get(key, 0)
        self.ticks[key] = ticks


def run_measured(
    command: list[str], env: dict[str, str], cwd: Path, log: Path, timeout: float
) -> Cost:
    """Run a program and write its output to `log`.

    Raises `subprocess.CalledProcessError` or `subprocess.TimeoutExpired`; no process is left
    running.
    """
    # Orphaned descendants become children of this process.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    strangers = set(_descendants())
    account = _Account()
    patience = 0.0
    begin, busy = time.monotonic(), _busy_ticks()
    with log.open("wb") as sink:
        process = subprocess.Popen(command, cwd=cwd, env=env, stdout=sink, stderr=sink)
    try:
        sampled = begin
        # WNOWAIT leaves a zombie, whose final CPU times can still be read.
        while os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            time.sleep(POLL_SECONDS)
            if time.monotonic() - sampled > SAMPLE_SECONDS:
                sampled = time.monotonic()
                _sample(strangers, account)
            if time.monotonic() - begin > timeout:
                raise subprocess.TimeoutExpired(command, timeout)
        seconds = time.monotonic() - begin
        patience = LEFT_SECONDS
        _sample(strangers, account)
        ours, all_busy = sum(account.ticks.values()), _busy_ticks() - busy
        titles = dict(account.by_title)
    finally:
        if patience == 0:
            process.kill()
        process.wait()
        _end(strangers, account, patience)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    a_second = os.sysconf("SC_CLK_TCK")
    by_title = {title: ticks / a_second for title, ticks in titles.items()}
    return Cost(seconds, ours / a_second, max(0, all_busy - ours) / a_second, by_title)


def _sample(strangers: set[Key], account: _Account) -> dict[Key, _Process]:
    """Update the account with all processes of the program, and return these."""
    ours = {key: found for key, found in _descendants().items() if key not in strangers}
    for key, found in ours.items():
        account.note(key, found.ticks)
    return ours


def _title(pid: int) -> str:
    """The first two words of a command line without folders.

    Empty for a process that has ended and for an idle Ray worker.
    """
    with suppress(OSError):
        words = (PROC / str(pid) / "cmdline").read_text(errors="replace").split("\0")[:2]
        title = " ".join(word.rpartition("/")[2] for word in words).strip()
        return "" if title == IDLE else title
    return ""


def _end(strangers: set[Key], account: _Account, patience: float) -> None:
    """Wait `patience` seconds for processes that the program left behind, then kill them."""
    deadline = time.monotonic() + patience
    while ours := _sample(strangers, account):
        for (pid, _), found in ours.items():
            if found.ended and found.parent == os.getpid():
                os.waitpid(pid, 0)
            elif not found.ended and time.monotonic() > deadline:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS)


def _busy_ticks() -> int:
    """Busy ticks of all cores since the machine started."""
    user, nice, system, _idle, _waiting, *others = (PROC / "stat").read_text().split()[1:9]
    return sum(map(int, (user, nice, system, *others)))


def _descendants() -> dict[Key, _Process]:
    """All descendants of this process, by pid and start time; from proc(5)."""
    found: dict[int, tuple[int, _Process]] = {}
    children = defaultdict(list)
    for entry in PROC.glob("[0-9]*"):
        with suppress(OSError):
            # The process name before it is in parentheses and may contain anything.
            state, parent, *fields = (entry / "stat").read_text().rpartition(")")[2].split()
            process = _Process(int(parent), state in "ZX", int(fields[9]) + int(fields[10]))
            found[int(entry.name)] = (int(fields[17]), process)
            children[int(parent)].append(int(entry.name))
    family: dict[Key, _Process] = {}
    queue = [os.getpid()]
    while queue:
        for pid in children[queue.pop()]:
            start, process = found[pid]
            family[pid, start] = process
            queue.append(pid)
    return family
