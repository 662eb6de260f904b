"""Memory that was freed stays with the process, as torch's allocator has it on a GPU.

By default glibc returns freed blocks to the system and fills new ones in pages of 4 KiB, each first
cleared by the kernel. That is no part of any method, but up to half of the time of those that write
large arrays.
"""

import os
import platform
import sys

# From glibc's manual, "Memory Allocation Tunables". Blocks up to 32 MiB, the most it allows, are
# kept. Larger ones come in huge pages where the system has them; kept as well, they would leave
# holes that add up to several times what is in use.
TUNABLES = {
    "glibc.malloc.mmap_threshold": 32 << 20,
    "glibc.malloc.trim_threshold": 1 << 62,
    "glibc.malloc.hugetlb": 1,
}
VARIABLE = "GLIBC_TUNABLES"
SETTING = ":".join(f"{name}={value}" for name, value in TUNABLES.items())


def keeps_freed_memory() -> bool:
    """Whether this process was started with ``TUNABLES``."""
    return os.environ.get(VARIABLE) == SETTING


def keep_freed_memory() -> None:
    """Starts this program again with ``TUNABLES``, which are read at the start only.

    To be called first. Nothing happens where they, or a user's, are set already, where the C
    library is another one, and in a program that was not started itself: one that a notebook, a
    debugger or another program runs.
    """
    if VARIABLE in os.environ or platform.libc_ver()[0] != "glibc" or not _is_started_itself():
        return
    os.environ[VARIABLE] = SETTING
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _is_started_itself() -> bool:
    """Whether the interpreter's own command line names what runs as ``__main__``."""
    module = sys.modules["__main__"].__spec__
    program = sys.argv[0] if module is None else module.name
    return sys.orig_argv[-len(sys.argv) :] == [program, *sys.argv[1:]]
