"""Errors that a user can mend: one line that says what is wrong and what to do."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Wrong input, missing data, an unwritable folder: printed as one line, exit code 2."""


def nearest(name: str, valid: Iterable[str], *, kind: str) -> UserError:
    """The error for an unknown name: says the nearest valid one, or lists what there is."""
    names = sorted(valid)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return UserError(f"unknown {kind} '{name}': did you mean '{close[0]}'?")
    return UserError(f"unknown {kind} '{name}': choose from {', '.join(names)}")


class CellFailed(Exception):
    """A cell ended with a status that a sweep must report; the row is already written."""

    def __init__(self, status: str, exit_code: int):
        super().__init__(status)
        self.status, self.exit_code = status, exit_code

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        # sweeps with several processes send it home by pickle
        return type(self), (self.status, self.exit_code)
