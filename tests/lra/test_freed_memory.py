import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from lra.freed_memory import SETTING, VARIABLE
from lra.results.fingerprint import fingerprint

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="the C library is not glibc"
)

# pages that the system had to clear for memory that had been freed before
AGAIN = """
import resource
import torch
def fill():
    for block in [torch.empty(6 << 20) for _ in range(4)]:
        block.fill_(1)
def cleared():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fill()
before = cleared()
for _ in range(3):
    fill()
print(cleared() - before)
"""
KEEP = "from lra.freed_memory import keep_freed_memory\nkeep_freed_memory()\n"
SAY = """import sys
from lra.freed_memory import keeps_freed_memory
print("kept" if keeps_freed_memory() else "as it was", *sys.argv[1:])
"""
CHECKOUT = Path(__file__).parents[2]


def said(folder, *arguments):
    """What a program prints whose environment sets nothing for the allocator."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True, text=True, check=True, cwd=folder, timeout=120,
        env={**environment, "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    return done.stdout.strip()


def test_freed_memory_is_kept(tmp_path):
    (tmp_path / "returned.py").write_text(AGAIN)
    (tmp_path / "kept.py").write_text(KEEP + AGAIN)
    assert int(said(tmp_path, "kept.py")) < int(said(tmp_path, "returned.py")) / 4


@pytest.mark.parametrize(
    "command", [["keep.py"], ["-m", "keep"], ["-u", "keep.py", "task=listops", "seed=1"]]
)
def test_a_program_starts_itself_again(tmp_path, command):
    (tmp_path / "keep.py").write_text(KEEP + SAY)
    assert said(tmp_path, *command) == " ".join(
        ["kept", *(word for word in command if "=" in word)]
    )


def test_a_program_that_another_runs_is_not_started_again(tmp_path):
    (tmp_path / "keep.py").write_text(KEEP + SAY)
    another = "import runpy, sys\nsys.argv = ['keep.py', 'b']\n"
    (tmp_path / "another.py").write_text(
        another + "runpy.run_path('keep.py', run_name='__main__')\n"
    )
    assert said(tmp_path, "another.py", "a") == "as it was b"


def test_rows_say_that_freed_memory_was_kept(monkeypatch):
    found = []
    for setting in (SETTING, ""):
        monkeypatch.setenv(VARIABLE, setting)
        found.append("freed_memory=kept" in fingerprint("cpu").versions.split())
    assert found == [True, False]
