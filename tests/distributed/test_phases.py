"""What a rank says that it was doing when it ended."""

import pytest

from megaprune.distributed import world


def said():
    """The phase that an error from here would be said to be of."""
    return world._phase_of(ArithmeticError())


def test_the_innermost_phase_is_said():
    with world.phase("train"):
        with world.phase("forward"):
            assert said() == "forward"
        assert said() == "train"


def test_between_two_phases_the_last_is_said():
    """And not that the job is starting, which it is no longer."""
    with world.phase("generate"), world.phase("grade"):
        pass
    assert said() == "after generate"


def test_an_error_keeps_the_phase_that_it_was_raised_in():
    train, backward = world.phase("train"), world.phase("backward")
    with pytest.raises(ArithmeticError) as raised, train, backward:
        raise ArithmeticError
    assert world._phase_of(raised.value) == "backward"
    assert said() == "after train"
