"""Block-sparse attention has the kernels of attention, made to walk lists of key blocks."""

from collections.abc import Iterator

from kernels.attention.triton_kernels import variants_of
from kernels.triton_tools import Variant


def variants() -> Iterator[Variant]:
    """Blocks of 64."""
    yield from variants_of(64)
