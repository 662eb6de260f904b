"""Emulated kernels call their helpers at the price of a Python call, and add at that of one
operation; a test may run them in other configurations than the first."""

from collections.abc import Callable
from typing import Any

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


@pytest.fixture
def in_other_configurations(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Calls a function with every kernel in its second configuration, then in its third...: what a
    GPU's tuner may choose, and the emulator would never run. A kernel with fewer runs its last."""
    # not before the annotations' checker stands, which sees only what is imported after it
    from kernels.triton_tools import Tuned

    first = Tuned.__getitem__

    def call(function: Callable[[], Any]) -> None:
        place, most = 1, 2

        def other(self: Tuned, grid: Any) -> Any:
            nonlocal most
            # warps and stages are nothing to the emulator
            distinct = list({str(config.kwargs): config for config in self.configs}.values())
            most = max(most, len(distinct))
            return first(Tuned(self.fn, distinct[min(place, len(distinct) - 1) :], self.key), grid)

        monkeypatch.setattr(Tuned, "__getitem__", other)
        while place < most:
            function()
            place += 1

    return call
