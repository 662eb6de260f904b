"""The device that a configuration asks for."""

import torch

from lra.errors import UserError


def find_device(wish: str) -> torch.device:
    """The torch device of ``auto``, ``cpu`` or ``cuda``; ``auto`` is a GPU where there is one.

    Raises:
        UserError: it is not here.
    """
    if wish == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda, but torch sees no GPU here: device=cpu, or device=auto")
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wish, 0) if wish == "cuda" else torch.device(wish)
