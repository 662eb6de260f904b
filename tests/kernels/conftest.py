"""Shape annotations off, for tests of the errors that a user sees without them."""

from collections.abc import Iterator

import pytest
from jaxtyping import config


@pytest.fixture
def untyped() -> Iterator[None]:
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
