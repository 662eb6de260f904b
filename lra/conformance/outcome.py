"""What a check can say besides "it holds" (it returns) and "it does not" (AssertionError)."""

from dataclasses import dataclass
from typing import Literal


class NotApplicable(Exception):
    """The system does not claim what the check tests, and nothing could be verified instead."""


class Refuses(NotApplicable):
    """The system's card says that it cannot, and it was seen to refuse."""


@dataclass(frozen=True)
class Outcome:
    """One check on one system. ``reason`` is empty where it passed."""

    check: str
    status: Literal["pass", "refuses", "not applicable", "fail"]
    reason: str = ""
