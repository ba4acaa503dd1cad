"""The one error type that a user is meant to read, and its words."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message says what was seen, what was expected and how to mend it; the command line prints it
    without a traceback and exits with status 1. Programming errors are never of this type.
    """


def counted(count: int, word: str, plural: str | None = None) -> str:
    """Return a number with the word for what it counts: "1 process", "2 processes".

    Args:
        plural: of the word; None for an "s" behind it.
    """
    return f"{count} {word if count == 1 else plural or f'{word}s'}"
