"""What a response is worth: pure functions of a prompt's graded responses. Needs numpy alone."""

from megaprune.algorithms.rewards.truncate import REWARDS, Group, Reward, truncate

__all__ = ["REWARDS", "Group", "Reward", "truncate"]
