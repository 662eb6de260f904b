"""Layouts: which positions see which, made of numbers whatever watches or fakes the tensors."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from torch.utils._python_dispatch import _disable_current_modes

T = TypeVar("T")
P = ParamSpec("P")


def geometry(function: Callable[P, T]) -> Callable[P, T]:
    """Makes a function deaf to dispatch modes: layouts hold numbers, also where a model runs on
    fake tensors, and are not part of what is counted."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with _disable_current_modes():
            return function(*args, **kwargs)

    return run
