"""Check that each image of an archive is exactly once in scores or failures.

    verdict = verify_scores("s3://bucket/odir", "s3://bucket/odir-scores")
    verdict.passed, verdict.count["lost"], verdict.lost

The archive is counted by other code than that of the scorer (`sdmad.scoring.census`), and compared
with the tables unit by unit, several at once. `jobs` cuts a verification into independent parts,
`check` compares the objects and rows of one part, `verdict` holds what was found, and `text` puts
it into words. `run` drives all of this.
"""

from sdmad.scoring.verify.run import verify_scores
from sdmad.scoring.verify.verdict import Verdict

__all__ = ["Verdict", "verify_scores"]
