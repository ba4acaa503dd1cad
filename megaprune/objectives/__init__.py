"""What a response is worth: pure functions of a prompt's graded responses. Needs numpy alone."""

from megaprune.objectives.rewards import OBJECTIVES, Group, Objective, truncate

__all__ = ["OBJECTIVES", "Group", "Objective", "truncate"]
