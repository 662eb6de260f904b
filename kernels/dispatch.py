"""Backends of an op: one table, one choice, every rejected backend with its reason.

An op is a pure function with several implementations. Its package lists them in order of
preference, imports none of them, and runs the chosen one:

    OP = Op("attention", backends=("reference", "eager", "sdpa"), auto={"cpu": ("sdpa", "eager")})

    def attention(q, k, v, *, causal=False, backend="auto"):
        return OP(backend, q, k, v, causal=causal)

A backend is the module ``kernels.<op>.<name>`` (``<name>_`` where a library has that name) with a
function ``run`` that takes exactly the op's arguments, and optionally

    available() -> str | None            why it cannot run on this machine (None: it can)
    supports(*args, **kwargs) -> str | None    why it cannot do this call (None: it can)

``compile`` has no module: it is ``eager`` through torch.compile.

``auto`` takes the first backend of the device's row that says no word against the call. An explicit
backend never falls back: it fails with the reason.
"""

import contextlib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from difflib import get_close_matches
from types import ModuleType
from typing import Any

from kernels import compiling, triton_tools
from kernels.errors import Unsupported

# what speaks against every op's backend of that name, asked before its module is imported
COMMON = {"compile": compiling.available, "triton": triton_tools.available}
# their modules end in "_": one named like a library may be imported in its place
LIBRARIES = ("triton", "flash_attn", "xformers", "fla", "mamba_ssm", "causal_conv1d")

# what ``backend="auto"`` means just now: a backend for every op, or one per op name
_preferred: ContextVar[str | Mapping[str, str]] = ContextVar("preferred_backend", default="auto")
_log: ContextVar["Log | None"] = ContextVar("backend_log", default=None)


@dataclass(frozen=True)
class Choice:
    """The backend that ran, why, and why the others before it did not."""

    op: str
    backend: str
    reason: str
    rejected: Mapping[str, str] = field(default_factory=dict)

    @property
    def refusals(self) -> list[str]:
        """What spoke against each backend before it, in words."""
        return [f"no {name} for {self.op}: {reason}" for name, reason in self.rejected.items()]


class Log(dict[str, Choice]):
    """The last choice of each op; ``all`` are the different ones, the first call's first."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Choice] = []

    def note(self, choice: Choice) -> None:
        self[choice.op] = choice
        if choice not in self.all:
            self.all.append(choice)


class Op:
    """A named op and its backends.

    Args:
        name: the op's package under ``kernels``.
        backends: every backend it has; ``compile`` needs no module, it compiles ``eager``.
        auto: device type -> backends in order of preference; other devices use the row ``cpu``.
    """

    def __init__(self, name: str, *, backends: Sequence[str], auto: Mapping[str, Sequence[str]]):
        self.name, self.backends, self.auto = name, tuple(backends), auto

    def module(self, backend: str) -> ModuleType:
        """The backend's module, imported on first use."""
        if backend not in self.backends:
            near = get_close_matches(backend, self.backends, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise Unsupported(
                f"{self.name} has no backend '{backend}': {hint}it has {', '.join(self.backends)}"
            )
        name = f"{backend}_" if backend in LIBRARIES else backend
        return importlib.import_module(f"kernels.{self.name}.{name}")

    @functools.cache  # noqa: B019  (ops live as long as the program)
    def why_not_here(self, backend: str) -> str | None:
        """Why the backend cannot run on this machine, or None."""
        if backend in COMMON and (reason := COMMON[backend]()) is not None:
            return reason
        try:
            module = self.module("eager" if backend == "compile" else backend)
        except ImportError as error:
            return f"cannot be imported: {error}"
        return module.available() if hasattr(module, "available") else None

    @functools.cache  # noqa: B019
    def implementation(self, backend: str) -> Callable[..., Any]:
        """The function that runs: ``run`` of the backend's module, compiled for ``compile``."""
        if backend == "compile":
            self.module_in_table(backend)
            return compiling.compiled(self.module("eager").run)
        return self.module(backend).run

    def module_in_table(self, backend: str) -> None:
        if backend not in self.backends:
            self.module(backend)

    def why_not(self, backend: str, *args: Any, **kwargs: Any) -> str | None:
        """Why the backend cannot do this call here, or None."""
        reason = self.why_not_here(backend)
        if reason is not None:
            return reason
        module = self.module("eager" if backend == "compile" else backend)
        return module.supports(*args, **kwargs) if hasattr(module, "supports") else None

    def choose(self, backend: str, *args: Any, **kwargs: Any) -> Choice:
        """Which backend runs this call. The first argument's device decides the row of ``auto``.

        Raises:
            Unsupported: an explicit backend, or every one of ``auto``, says no.
        """
        if backend == "auto":
            wish = _preferred.get()
            backend = wish if isinstance(wish, str) else wish.get(self.name, "auto")
        if backend != "auto":
            self.module_in_table(backend)
            reason = self.why_not(backend, *args, **kwargs)
            if reason is not None:
                raise Unsupported(f"{self.name}: backend '{backend}' cannot do this: {reason}")
            return Choice(self.name, backend, "asked for")
        device = args[0].device.type
        rejected: dict[str, str] = {}
        for name in self.auto.get(device, self.auto["cpu"]):
            reason = self.why_not(name, *args, **kwargs)
            if reason is None:
                why = "first choice" if not rejected else "first that can"
                return Choice(self.name, name, f"{why} on {device}", rejected)
            rejected[name] = reason
        said = "; ".join(f"{name}: {reason}" for name, reason in rejected.items())
        raise Unsupported(f"{self.name}: no backend on {device} can do this ({said})")

    def __call__(self, backend: str, *args: Any, **kwargs: Any) -> Any:
        choice = self.choose(backend, *args, **kwargs)
        log = _log.get()
        if log is not None:
            log.note(choice)
        return self.implementation(choice.backend)(*args, **kwargs)


@contextlib.contextmanager
def prefer(backend: str | Mapping[str, str]) -> Iterator[None]:
    """Inside, ``backend="auto"`` means this one: a name for every op, or a mapping op -> name."""
    token = _preferred.set(backend)
    try:
        yield
    finally:
        _preferred.reset(token)


@contextlib.contextmanager
def record() -> Iterator[Log]:
    """Collects the choices made inside."""
    log = Log()
    token = _log.set(log)
    try:
        yield log
    finally:
        _log.reset(token)


def all_ops() -> dict[str, Op]:
    """Every op by name: the packages of ``kernels`` that define ``OP``."""
    import kernels

    found = {}
    for info in pkgutil.iter_modules(kernels.__path__):
        if info.ispkg:
            op = getattr(importlib.import_module(f"kernels.{info.name}"), "OP", None)
            if isinstance(op, Op):
                found[op.name] = op
    return found
