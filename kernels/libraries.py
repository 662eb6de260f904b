"""Libraries that ops may use on a GPU: whether one can be used here."""

from importlib import import_module
from importlib.util import find_spec

import torch


def why_not(module: str, *, capability: tuple[int, int] = (0, 0)) -> str | None:
    """Why a library does not run here, or None.

    Args:
        module: what the adapter imports.
        capability: the least compute capability of its kernels.
    """
    name = module.partition(".")[0]
    if find_spec(name) is None:
        return f"{name} is not installed (extra `gpu`)"
    if not torch.cuda.is_available():
        return "it needs a GPU"
    if torch.cuda.get_device_capability() < capability:
        return "it needs a GPU of compute capability {}.{} or more".format(*capability)
    try:
        import_module(module)
    except Exception as error:  # one that was built for another torch raises anything
        return f"{name} cannot be imported: {(str(error).splitlines() or [''])[0]}"
    return None
