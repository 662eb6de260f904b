"""What a task's knobs may be, said in one line where they are not."""

from collections.abc import Iterable

from lra.errors import UserError, nearest


def check_choice(name: str, value: object, choices: Iterable[str]) -> None:
    """Raises UserError where a knob is none of the choices."""
    if value not in (known := list(choices)):
        raise nearest(str(value), known, kind=f"value of {name}")


def check_flag(name: str, value: object) -> None:
    """Raises UserError where a knob is neither true nor false."""
    if not isinstance(value, bool):
        raise UserError(f"{name}={value}: write true or false")


def check_whole(least: int, **knobs: int) -> None:
    """Raises UserError where a knob is no whole number of at least ``least``."""
    for name, value in knobs.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"{name}={value}: write a whole number from {least}")


def padded_length(padding: object, max_length: int) -> int | None:
    """What ``padding`` asks for: the length of every batch, or None, that of its longest sequence.

    Args:
        padding: longest; full, ``max_length``; or a number of at least ``max_length``.
        max_length: longest sequence of the task.

    Raises:
        UserError: it is none of these.
    """
    if isinstance(padding, int) and not isinstance(padding, bool):
        if padding < max_length:
            raise UserError(
                f"padding={padding}: write longest, full, or a length from max_length={max_length}"
            )
        return padding
    check_choice("padding", padding, ("longest", "full"))
    return max_length if padding == "full" else None
