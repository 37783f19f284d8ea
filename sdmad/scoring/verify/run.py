"""Verify a scoring run: cut the work into jobs, do them in threads, and add up what they found."""

import json
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor

from sdmad import storage
from sdmad.scoring import tables
from sdmad.scoring.plan import open_plan, plan_uri
from sdmad.scoring.verify.check import check
from sdmad.scoring.verify.jobs import Jobs
from sdmad.scoring.verify.verdict import Verdict

THREADS = 16
JOBS_AT_ONCE = 4 * THREADS


def verify_scores(
    archive: str, output: str, open_files: bool = True, table: str = tables.SCORES
) -> Verdict:
    """Compare the archive with the tables of the run at `output`, whose rows are in `table`.

    Without `open_files`, images in files of several frames are not counted: then the headers and
    directories of shards are enough, and loose objects are only listed. Memory does not grow with
    the number of images; it grows by 26 bytes for each object (shard or loose image), and by the
    names of the largest shard. Raises `UserError` when the archive cannot be listed.
    """
    jobs = Jobs(archive, output, table)
    axis = slice_axis(output, table) if open_files else None
    verdict = Verdict()
    with ThreadPoolExecutor(THREADS) as pool:
        waiting: deque[Future[Verdict]] = deque()
        try:
            for job in jobs:
                waiting.append(pool.submit(check, job, jobs, axis))
                if len(waiting) == JOBS_AT_ONCE:
                    verdict.merge(waiting.popleft().result())
            while waiting:
                verdict.merge(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()
    verdict.merge(jobs.found)
    for kind in ("lost", "doubled", "foreign", "suspects", "changed", "broken"):
        getattr(verdict, kind).sort()
    return verdict


def slice_axis(output: str, table: str = tables.SCORES) -> str:
    """The axis along which volumes are cut, by the plan; the default where there is none."""
    metadata = open_plan(output, table)[0] if storage.exists(plan_uri(output)) else {}
    recorded = metadata.get("input", "{}")
    return str(json.loads(recorded).get("slice_axis", "axial"))
