"""What all tests share: real data by ``LRA_DATA``, no network, one thread a worker."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def lra_data() -> Path:
    """Real data in the public layouts, or a skip that says why."""
    path = os.environ.get("LRA_DATA")
    if not path:
        pytest.skip("LRA_DATA does not point to real data")
    return Path(path)
