import pytest

import wheels


@pytest.fixture(scope="session")
def wheel():
    """The folder of files of a wheel (`wheels.files`); skips where they cannot be had."""

    def files(name, version, *patterns):
        try:
            return wheels.files(name, version, *patterns)
        except wheels.Unavailable as error:
            pytest.skip(str(error))

    return files


@pytest.fixture(scope="session")
def transformer_engine(wheel):
    """The folder of Transformer Engine's package, on which `te_server.py` stands."""
    return wheel(*wheels.TRANSFORMER_ENGINE)
