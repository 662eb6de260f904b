"""Emulated kernels call their helpers at the price of a Python call, and add at that of one
operation."""

from collections.abc import Callable

import pytest
from triton.runtime import interpreter

prepared: set[Callable] = set()


def call(self, *args, **kwargs):
    if self.fn not in prepared:
        interpreter._patch_lang(self.fn)
        prepared.add(self.fn)
    return self.rewrite()(*args, **kwargs)


@pytest.fixture(autouse=True)
def prepared_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton prepares its language for every call of a helper, which takes milliseconds; once for
    each helper is enough, as the launch of a kernel does the rest."""
    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call)


@pytest.fixture(autouse=True)
def no_asserts_of_overflow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator computes every sum and product of integers a second time, in 64 bits, to see
    whether it fits: half the time of a scan, and no tensor here has two billion elements."""
    options = interpreter.InterpreterOptions(sanitize_overflow=False)
    monkeypatch.setattr(interpreter.interpreter_builder, "options", options)
