"""A notebook as a script: a tiny model is pruned with problems, a grader and a reward of one's own.

    python examples/own_reward.py [FOLDER]

Editors that know `# %%` run it cell by cell. On two CPU cores it takes about a minute.
"""

# %% [markdown]
# Everything goes into one folder: the files that are written here, the run, and the plot.

# %%
import json
import random
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # in a notebook, leave this out
import matplotlib.pyplot as plt

import megaprune as mp
from megaprune.data import ProblemRow, write_parquet

folder = Path(sys.argv[1] if len(sys.argv) > 1 else "own_reward")
folder.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Problems
# They are often JSON lines, with names of one's own. A run reads parquet, one `ProblemRow` each
# (on the command line, `megaprune data --input problems.jsonl ...` does the same).

# %%
problems_file = folder / "problems.jsonl"
drawn = random.Random(0)
with problems_file.open("w", encoding="utf-8") as file:
    for _ in range(64):
        a, b = drawn.randrange(100, 500), drawn.randrange(100, 500)
        file.write(json.dumps({"text": f"What is {a} + {b}?", "result": a + b}) + "\n")

rows = []
for number, line in enumerate(problems_file.read_text(encoding="utf-8").splitlines()):
    problem = json.loads(line)
    messages = [{"role": "user", "content": problem["text"]}]
    rows.append(ProblemRow("sums", messages, str(problem["result"]), index=number))
write_parquet(folder / "problems.parquet", rows)

# %% [markdown]
# ## A grader
# It is a function in a file, since other processes import it. This one takes the last number of a
# response that ended by itself. (In a notebook: `%%writefile my_grader.py`.)

# %%
grader_file = folder / "my_grader.py"
grader_file.write_text(
    """
import re


def last_number(gold: str, response: str, finished: bool) -> bool:
    numbers = re.findall(r"-?\\d+", response)
    return finished and bool(numbers) and numbers[-1] == gold
"""
)

# %% [markdown]
# ## A reward
# It is a dataclass in a file. Its fields are parameters, and it is called with a group: all
# responses to one problem.

# %%
reward_file = folder / "my_reward.py"
reward_file.write_text(
    '''
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Brevity:
    """Right answers are worth more the shorter they are."""

    scale: float = 100.0

    def __call__(self, group):
        return group.correct * np.exp(-group.length / self.scale)
'''
)

# %% [markdown]
# ## The run
# Fields are those of the command line. Each step gives its metrics and its batch.

# %%
config = mp.read_config(
    [
        "recipe=tiny_overthinker",
        "steps=3",
        f"data.train={folder}/problems.parquet",
        "data.validation=null",
        "data.train_batch_size=16",
        "rollout.n=4",
        "rollout.max_response_length=160",
        f"grading.graders.sums={grader_file}:last_number",
        f"algorithm.reward.name={reward_file}:Brevity",
        "algorithm.reward.scale=60",
    ]
)
steps, lengths, rewards = [], [], []
for step in mp.Run(config, out=folder / "run"):
    print(
        f"step {step.step}: {step.metrics['accuracy']:.0%} right, "
        f"{step.metrics['response_length/mean']:.0f} tokens, reward {step.metrics['reward']:.3f}"
    )
    steps.append(step.step)
    lengths.append(step.metrics["response_length/mean"])
    rewards.append(step.metrics["reward"])

# %% [markdown]
# In the batch of the last step, take the problem whose responses differ most in worth, and print
# the best and the worst of them.

# %%
most = abs(step.batch.advantages).sum(axis=1).argmax()
group, advantages = step.batch.groups[most], step.batch.advantages[most]
for name, number in (("best", advantages.argmax()), ("worst", advantages.argmin())):
    rollout = group.rollouts[number]
    print(f"{name}: advantage {advantages[number]:+.2f}, {rollout.length} tokens\n{rollout.text}\n")

# %% [markdown]
# ## A plot

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
left.plot(steps, lengths, marker="o")
left.set(xlabel="step", ylabel="tokens of a response, mean")
right.plot(steps, rewards, marker="o")
right.set(xlabel="step", ylabel="reward, mean")
figure.savefig(folder / "curves.png")
print(f"wrote {folder / 'curves.png'}")
