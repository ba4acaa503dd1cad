"""What lies in a run's folder of checkpoints: which is the latest, which the best, which is whole.

All of it is read from the checkpoints themselves, at every start. Nothing here is collective.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from megaprune import schema
from megaprune.config.run import CheckpointConfig, Config
from megaprune.errors import InputError
from megaprune.files import remove_folder, replace_text, set_aside, writing
from megaprune.report import steps_on_page
from megaprune.weights.files.digests import CheckpointRecord, Damaged, damage, in_short
from megaprune.weights.files.kind import TRACKER, iterations, step_of


@dataclass(frozen=True)
class Score:
    """How good a step's model is: its accuracy, of 1, and mean length, in tokens."""

    step: int
    accuracy: float
    length: float


@dataclass(frozen=True)
class Best:
    """The choice among scores: the shortest of those as right as the rightest, or nearly so.

    Args:
        tie: points (of 100) that accuracies may differ by and be equal.
        score: that was chosen; None before the first.
        highest: accuracy of all that were seen.
    """

    tie: float
    score: Score | None = None
    highest: float = 0.0

    def after(self, new: Score) -> Best:
        """The choice when one more is seen; the earlier of two equals stays."""
        highest = max(self.highest, new.accuracy)
        enough = highest - self.tie / 100
        now = self.score
        better = now is None or now.accuracy < enough or new.length < now.length
        return Best(self.tie, new if better and new.accuracy >= enough else now, highest)

    def record(self, step: int, score: Score | None) -> CheckpointRecord:
        """Put what is known at a step into its checkpoint's record, whose files come later."""
        own, chosen = (None if value is None else asdict(value) for value in (score, self.score))
        return CheckpointRecord(step, own, chosen, self.highest)

    @staticmethod
    def of(folder: Path, tie: float) -> Best:
        """Return the choice as it was at the latest checkpoint in a folder.

        It is recorded there, since it depends on scores whose checkpoints are gone. If the chosen
        checkpoint is gone itself, the choice is made anew among those that are there.
        """
        records = {step_of(path): _record(path) for path in iterations(folder)}
        latest = records[max(records)] if records else None
        if latest is not None and latest.best is not None and latest.best["step"] in records:
            return Best(tie, Score(**latest.best), latest.highest)
        best = Best(tie)
        for record in records.values():
            if record is not None and record.score is not None:
                best = best.after(Score(**record.score))
        if latest is not None and best.score is None:
            best = replace(best, highest=latest.highest)
        return best


def latest_step(folder: Path) -> int:
    """The step of the latest checkpoint in a folder; 0 if there is none."""
    return max(map(step_of, iterations(folder)), default=0)


def finished(config: Config) -> bool:
    """Whether a run has done all that it was to do, as its folder says."""
    out = Path(config.out)
    # The page comes last; those that are written underway are of earlier steps.
    reported = steps_on_page(out / schema.REPORT_FOLDER / schema.PAGE_FILE) or 0
    saved = latest_step(out / schema.CHECKPOINTS_FOLDER)
    return (out / schema.MODEL_FOLDER).is_dir() and min(reported, saved) >= config.steps


def goes_on(folder: Path, steps: int) -> str:
    """Say from where the same command goes on with a run of so many steps."""
    checkpoints = iterations(folder)
    if not checkpoints:
        return f"no checkpoint is in {folder} yet: the same command begins with the first step"
    last = checkpoints[-1]
    return f"the same command goes on from {last} (step {step_of(last)} of {steps})"


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies in a folder of checkpoints."""
    return folder / f"iter_{step:07}"


def damage_of(path: Path, verify: str, share: tuple[int, int] = (0, 1)) -> list[str]:
    """Say what is wrong with a run's checkpoint, as `digests.damage` does."""
    lines = damage(path, verify, share=share)
    record = None if lines else _record(path)
    if record is not None and record.step != step_of(path):
        lines.append(f"it is of step {record.step}, whatever its name says")
    return lines


def put_aside(path: Path, lines: list[str]) -> str:
    """Give a damaged checkpoint a name by which it is none; say so in words."""
    with writing(path):
        aside = set_aside(path, "damaged")
    return f"{path} is damaged: {in_short(lines)}. It was set aside as {aside.name}"


def best_whole(folder: Path, config: CheckpointConfig) -> Score | None:
    """The score of the best checkpoint in a folder that is whole; None if none was measured.

    Damaged ones are set aside.

    Raises:
        InputError: one is damaged, and `on_damage` says to stop.
    """
    while (score := Best.of(folder, config.tie).score) is not None:
        path = checkpoint_path(folder, score.step)
        if not (lines := damage_of(path, config.verify)):
            return score
        if config.on_damage == "stop":
            raise InputError(
                f"{path}, the best checkpoint, is damaged: {in_short(lines)}. With "
                f"checkpoint.on_damage=previous the best of the others is taken"
            )
        warn(f"{put_aside(path, lines)}; the best of the others is taken")
    return None


class Shelf:
    """The checkpoints that a run keeps: those that are too many go.

    Args:
        folder: where they lie.
        config: how many are kept.
    """

    def __init__(self, folder: Path, config: CheckpointConfig):
        self._folder, self._config = folder, config
        self._stay: set[Path] = set()

    def tidy(self, best: Score | None) -> None:
        """Write the tracker for Megatron's tools, and remove checkpoints that are too many.

        One that cannot be removed, or holds what others put there, stays, which is said once.

        Raises:
            InputError: the tracker cannot be written.
        """
        paths, tracker = iterations(self._folder), self._folder / TRACKER
        if not paths:
            return
        word = str(step_of(paths[-1]))
        if tracker.is_symlink() or not tracker.is_file() or tracker.read_bytes() != word.encode():
            with writing(tracker):
                replace_text(tracker, word)
        for path in paths[: -self._config.keep_last]:
            if (best is not None and step_of(path) == best.step) or path in self._stay:
                continue
            try:
                remove_folder(path)
            except (InputError, OSError) as error:
                self._stay.add(path)
                warn(f"{path} is not needed any more, and stays: {error}")


def warn(text: str) -> None:
    """Warn of something that does not stop the run."""
    print(f"megaprune: warning: {text}", file=sys.stderr, flush=True)


def _record(path: Path) -> CheckpointRecord | None:
    try:
        return CheckpointRecord.read(path)
    except Damaged:
        return None  # `damage` names it where the checkpoint is to be used
