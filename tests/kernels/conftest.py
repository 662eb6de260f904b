"""Annotations off, for tests of the errors that a user sees without them; tiles that are small."""

from collections.abc import Iterator

import pytest
from jaxtyping import config


@pytest.fixture
def untyped() -> Iterator[None]:
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of attention so small that short sequences need many of them."""
    # not before the annotations' checker stands, which sees only what is imported after it
    from kernels.attention import eager

    monkeypatch.setitem(eager.BUDGET, "cpu", 1 << 11)
