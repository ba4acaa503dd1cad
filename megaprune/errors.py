"""The one error type that a user is meant to read."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message says what was seen, what was expected and how to mend it; the command line prints it
    without a traceback and exits with status 1. Programming errors are never of this type.
    """
