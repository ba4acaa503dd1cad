"""Grading: verdicts on responses, the graders that give them, a pool that runs them guarded.

    with Pool({"aime": "strict"}, workers=2) as pool:
        pool.submit("sample 1", "aime", gold="33", response=text, finished=True)
        verdict = pool.results()["sample 1"]

Importing this brings no computer algebra: only the pool's workers load it.
"""

from megaprune.grading.graders import GRADERS, Grader
from megaprune.grading.pool import GradingStats, Pool
from megaprune.grading.verdict import WHY, Verdict

__all__ = ["GRADERS", "WHY", "Grader", "GradingStats", "Pool", "Verdict"]
