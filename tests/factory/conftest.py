"""What every test of the factory needs."""

import pytest


@pytest.fixture(autouse=True)
def no_settings(clean_environment: None) -> None:
    """No setting comes from the environment that the tests run in."""
