"""What all tests share: real data by ``LRA_DATA``, no network, one thread a worker."""

import os
from pathlib import Path

import pytest

from tests.offline import sitecustomize

# whatever the user has set: no test asks the hub, or writes to an account
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# the processes that tests start are offline too
paths = [str(Path(sitecustomize.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(paths)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first: at the end one worker would wait for the other."""
    items.sort(key=lambda item: item.name != "test_every_command_runs")


@pytest.fixture(scope="session")
def lra_data() -> Path:
    """Real data in the public layouts, or a skip that says why."""
    path = os.environ.get("LRA_DATA")
    if not path:
        pytest.skip("LRA_DATA does not point to real data")
    return Path(path)
