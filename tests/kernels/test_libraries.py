"""GPU libraries: absent, without a GPU, on one that is too old, broken."""

import importlib.util
import sys

import pytest
import torch

from kernels import libraries
from kernels.dispatch import LIBRARIES, all_ops


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Makes a package of that name, whose import runs this code."""

    def make(code):
        (tmp_path / "some_library.py").write_text(code)
        importlib.invalidate_caches()

    monkeypatch.syspath_prepend(str(tmp_path))
    yield make
    sys.modules.pop("some_library", None)


def test_each_reason_in_turn(library, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert libraries.why_not("some_library") == "some_library is not installed (extra `gpu`)"
    library("raise OSError('undefined symbol: _ZN3c10\\nand more')")
    assert libraries.why_not("some_library") == "it needs a GPU"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert libraries.why_not("some_library", capability=(8, 0)) == (
        "it needs a GPU of compute capability 8.0 or more"
    )
    broken = "some_library cannot be imported: undefined symbol: _ZN3c10"
    assert libraries.why_not("some_library", capability=(7, 5)) == broken
    library("kernel = 1")
    assert libraries.why_not("some_library") is None


def test_every_library_that_is_not_here_is_named():
    for op in all_ops().values():
        for backend in set(op.backends) & set(LIBRARIES) - {"triton"}:
            if importlib.util.find_spec(backend) is None:
                assert op.why_not_here(backend) == f"{backend} is not installed (extra `gpu`)"
