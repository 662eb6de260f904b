"""The device lock: training steps share it, measuring has it alone.

Two files a device in the system's temporary folder, locked by ``flock``, so the kernel releases
them when a process dies, however it dies. Every user of the machine can lock them. A container with
a temporary folder of its own does not see its neighbours.

    turnstile   passed by a training step in an instant, held by a measuring process from the moment
                it waits: no new step starts, so it is not starved
    room        held shared during a training step, exclusively while measuring
"""

import contextlib
import fcntl
import os
import tempfile
import time
import weakref
from pathlib import Path

import torch

from lra.errors import UserError

_locks: "weakref.WeakSet[DeviceLock]" = weakref.WeakSet()


class DeviceLock:
    """Readers-writer lock of one device, fair to the writer. One instance a thread, not reentrant.

    Args:
        device: ``cpu``, ``cuda:1``, or a ``torch.device``.

    Attributes:
        waited_s: seconds that ``shared()`` has waited so far; no part of the training time.

    Raises:
        UserError: the lock files cannot be made, opened or locked.
    """

    def __init__(self, device: torch.device | str):
        self._turnstile, self._room = -1, -1
        self._inside = False
        self.waited_s = 0.0
        self.name = lock_name(torch.device(device))
        self._open()
        _locks.add(self)

    def shared(self) -> "_Shared":
        """Held around one training step; waits while someone measures."""
        return _Shared(self)

    def exclusive(self) -> "_Exclusive":
        """Held while measuring; waits for the running steps and lets none start."""
        return _Exclusive(self)

    def close(self) -> None:
        """Closes the files; using the lock opens them again."""
        for fd in (self._turnstile, self._room):
            if fd >= 0:
                os.close(fd)
        self._turnstile, self._room = -1, -1
        self._inside = False

    def __del__(self) -> None:
        self.close()

    def _open(self) -> None:
        self._turnstile = _open_file(f"{self.name}.turnstile")
        self._room = _open_file(f"{self.name}.room")

    def _enter(self) -> None:
        assert not self._inside, "the device lock is not reentrant"
        if self._room < 0 or _deleted(self._room):
            self.close()
            self._open()
        self._inside = True

    def _leave(self) -> None:
        _release(self._room)
        _release(self._turnstile)
        self._inside = False


class _Shared:
    """Through the turnstile into the room. A class: a generator costs twice the time."""

    __slots__ = ("_lock",)

    def __init__(self, lock: DeviceLock):
        self._lock = lock

    def __enter__(self) -> None:
        lock = self._lock
        lock._enter()
        try:
            lock.waited_s += _acquire(lock._turnstile, fcntl.LOCK_SH)
            lock.waited_s += _acquire(lock._room, fcntl.LOCK_SH)
            _release(lock._turnstile)
        except BaseException:
            lock._leave()
            raise

    def __exit__(self, *_: object) -> None:
        _release(self._lock._room)
        self._lock._inside = False


class _Exclusive:
    """Both files until the end."""

    __slots__ = ("_lock",)

    def __init__(self, lock: DeviceLock):
        self._lock = lock

    def __enter__(self) -> None:
        lock = self._lock
        lock._enter()
        try:
            _acquire(lock._turnstile, fcntl.LOCK_EX)
            _acquire(lock._room, fcntl.LOCK_EX)
        except BaseException:
            lock._leave()
            raise

    def __exit__(self, *_: object) -> None:
        self._lock._leave()


def lock_name(device: torch.device) -> str:
    """File name of a device's lock: the same in every process, whatever CUDA_VISIBLE_DEVICES."""
    if device.type != "cuda":
        return f"lra-bench-{device.type}"
    index = torch.cuda.current_device() if device.index is None else device.index
    uuid = getattr(torch.cuda.get_device_properties(index), "uuid", index)
    return f"lra-bench-cuda-{uuid}"


def _open_file(name: str) -> int:
    """A read-only descriptor, enough for ``flock``, so that one user's file serves all."""
    try:
        path = Path(tempfile.gettempdir()) / name
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        # created apart from opened: in a sticky folder the kernel may refuse O_CREAT on another
        # user's file
        with contextlib.suppress(FileExistsError):
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o644)
            os.fchmod(fd, 0o644)  # whatever the umask
            return fd
        return os.open(path, flags)
    except OSError as error:
        raise UserError(
            f"cannot make the device lock {name} in the temporary folder ({error}): "
            "set TMPDIR to a folder that you can write and that all your runs share"
        ) from error


def _acquire(fd: int, kind: int) -> float:
    """Locks; the seconds that it waited."""
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
        return 0.0
    except BlockingIOError:
        start = time.perf_counter()
        fcntl.flock(fd, kind)
        return time.perf_counter() - start
    except OSError as error:
        raise UserError(
            f"the temporary folder {tempfile.gettempdir()} does not support file locks ({error}): "
            "set TMPDIR to a folder on a local disk that all your runs share"
        ) from error


def _release(fd: int) -> None:
    fcntl.flock(fd, fcntl.LOCK_UN)


def _deleted(fd: int) -> bool:
    """Whether a cleaner of the temporary folder removed the file under us."""
    return os.fstat(fd).st_nlink == 0


def _close_after_fork() -> None:
    # a child that inherits the descriptors would keep a killed parent's lock alive
    for lock in list(_locks):
        lock.close()


os.register_at_fork(after_in_child=_close_after_fork)
