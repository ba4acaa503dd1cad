"""Length limits of a run: those that it trains under, and that of its validations."""

from __future__ import annotations

from megaprune.config.run import Config

VALIDATION_ROOM = 4
"""By default a response of a validation may be so many times as long as one of training: under the
training limit alone, a model that has not learned to be brief would be measured by its cut-offs."""


def training_limits(config: Config) -> list[int]:
    """Return the length limits that a configuration trains under: of its rounds, or its own."""
    limits: list[int] = getattr(config, "limits", [])
    return limits or [config.rollout.max_response_length]


def validation_limit(config: Config, context: int) -> int | None:
    """Return the most tokens of a response in a validation; None if there are no validations.

    It is `validation.max_response_length`; if that is null, VALIDATION_ROOM times the largest
    training limit, as far as the model's context goes.

    Args:
        context: tokens that the model can take; 0 if that is not known.
    """
    validation = config.validation
    if config.data.validation is None or not validation.every:
        return None
    if validation.max_response_length is not None:
        return validation.max_response_length
    longest = max(training_limits(config))
    room = VALIDATION_ROOM * longest
    return max(longest, min(room, context - config.data.max_prompt_length)) if context else room


def needs_engine(config: Config) -> bool:
    """Return whether a run draws responses, or measures the model."""
    return config.data.rollouts is None or config.data.validation is not None


def longest_sequence(config: Config, context: int) -> int:
    """Return the tokens of the longest prompt and response that an engine may have to hold."""
    given = config.validation.max_response_length  # also where nothing is validated
    limits = [*training_limits(config), given or validation_limit(config, context) or 0]
    return config.data.max_prompt_length + max(limits)
