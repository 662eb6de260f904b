"""Emulated kernels call their helpers at the price of a Python call, and add at that of one
operation; a test may run them in other configurations than the first."""

import gc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from triton.runtime import interpreter

prepared: set[Callable] = set()


def call(self, *args, **kwargs):
    if self.fn not in prepared:
        interpreter._patch_lang(self.fn)
        prepared.add(self.fn)
    return self.rewrite()(*args, **kwargs)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool:
    """Each check in a thread of its own. CPython 3.11 keeps its frames in pieces of 16 KiB, and
    maps and unmaps memory at every call that crosses the end of one: under pytest's own frames that
    is where a kernel's operations are, a million times. A thread's frames begin anew."""
    wanted = pyfuncitem._fixtureinfo.argnames
    arguments = {name: pyfuncitem.funcargs[name] for name in wanted}
    with ThreadPoolExecutor(1) as thread:
        thread.submit(pyfuncitem.obj, **arguments).result()
    return True


@pytest.fixture(autouse=True)
def few_collections() -> Iterator[None]:
    """An emulated operation makes dozens of objects: rubbish is collected after each check."""
    gc.disable()
    yield
    gc.enable()


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
