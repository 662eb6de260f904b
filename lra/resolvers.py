"""OmegaConf resolvers of the configs. Light: imported before a job starts."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf


def sized(paper: int, small: int | None = None, *, _root_: DictConfig) -> int:
    """A window, block, landmark or bucket size: the paper's, unless the protocol ties it to length.

    ``${sized:128}`` is 128, or ``task.max_length / protocol.size_divisor`` where the protocol has a
    divisor (at least 1). ``${sized:8,2}`` is 8, or 2 there: how many of something that has such a
    size.
    """
    divisor: Any = OmegaConf.select(_root_, "protocol.size_divisor")
    length: Any = OmegaConf.select(_root_, "task.max_length")
    if not divisor or not length:
        return int(paper)
    if small is not None:
        return int(small)
    return max(1, int(length) // int(divisor))


def checkout() -> str:
    """The folder that holds run.py."""
    return str(Path(__file__).resolve().parents[1])


def from_checkout(path: str) -> str:
    """A path that counts from the checkout if it is relative."""
    return str(Path(checkout()) / Path(path).expanduser())


def register() -> None:
    """Makes the resolvers known to OmegaConf; may be called again."""
    OmegaConf.register_new_resolver("from_checkout", from_checkout, replace=True)
    OmegaConf.register_new_resolver("sized", sized, replace=True)
