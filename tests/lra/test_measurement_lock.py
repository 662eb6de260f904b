"""The device lock between processes: who waits for whom, and who is freed by a death."""

import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from lra.errors import UserError
from lra.measurement.lock import DeviceLock

fork = multiprocessing.get_context("fork")
LONG_S = 20.0  # never reached where the lock works


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def hold(kind: str, held: Event, release: Event) -> None:
    with getattr(DeviceLock("cpu"), kind)():
        held.set()
        release.wait(LONG_S)


class Holder:
    """A process that holds the lock until told otherwise."""

    def __init__(self, kind: str):
        self.held, self.release = fork.Event(), fork.Event()
        self.process = fork.Process(target=hold, args=(kind, self.held, self.release), daemon=True)
        self.process.start()

    def has_it(self, within_s: float = LONG_S) -> bool:
        return self.held.wait(within_s)

    def end(self) -> None:
        self.release.set()
        self.process.join(LONG_S)
        assert self.process.exitcode == 0


def test_steps_run_side_by_side() -> None:
    first, second = Holder("shared"), Holder("shared")
    assert first.has_it() and second.has_it()
    first.end()
    second.end()


@pytest.mark.parametrize(
    ("inside", "outside"),
    [("shared", "exclusive"), ("exclusive", "shared"), ("exclusive", "exclusive")],
)
def test_measuring_is_alone(inside: str, outside: str) -> None:
    first = Holder(inside)
    assert first.has_it()
    second = Holder(outside)
    assert not second.has_it(within_s=0.2)
    first.end()
    assert second.has_it()
    second.end()


def step_without_pause(stop: Event) -> None:
    lock = DeviceLock("cpu")
    while not stop.is_set():
        with lock.shared():
            time.sleep(0.01)


def test_measuring_is_not_starved() -> None:
    """Of two processes that train, one or the other is inside at any time."""
    stop = fork.Event()
    trainers = [
        fork.Process(target=step_without_pause, args=(stop,), daemon=True) for _ in range(2)
    ]
    for trainer in trainers:
        trainer.start()
    time.sleep(0.1)
    measuring = Holder("exclusive")
    assert measuring.has_it(within_s=5)
    measuring.end()
    stop.set()
    for trainer in trainers:
        trainer.join(LONG_S)
        assert trainer.exitcode == 0


def test_no_step_starts_while_a_measuring_process_waits() -> None:
    training = Holder("shared")
    assert training.has_it()
    measuring = Holder("exclusive")
    assert not measuring.has_it(within_s=0.2)
    late = Holder("shared")
    assert not late.has_it(within_s=0.2)
    training.end()
    assert measuring.has_it()
    assert not late.has_it(within_s=0.1)
    measuring.end()
    assert late.has_it()
    late.end()


@pytest.mark.parametrize("kind", ["shared", "exclusive"])
def test_killed_holder_releases(kind: str) -> None:
    holder = Holder(kind)
    assert holder.has_it()
    holder.process.kill()
    holder.process.join()
    with DeviceLock("cpu").exclusive():
        pass


def test_killed_parent_does_not_live_on_in_its_child() -> None:
    """A worker process inherits the descriptors and may outlive a killed trainer for a while."""
    ready = fork.Event()

    def train() -> None:
        with DeviceLock("cpu").shared():
            if os.fork() == 0:
                time.sleep(3)
                os._exit(0)
            ready.set()
            time.sleep(LONG_S)

    trainer = fork.Process(target=train)
    trainer.start()
    assert ready.wait(LONG_S)
    trainer.kill()
    trainer.join()
    start = time.monotonic()
    with DeviceLock("cpu").exclusive():
        assert time.monotonic() - start < 2


def test_waiting_is_reported() -> None:
    measuring, lock = Holder("exclusive"), DeviceLock("cpu")
    assert measuring.has_it()
    timer = fork.Process(target=lambda: (time.sleep(0.5), measuring.release.set()))
    timer.start()
    start = time.perf_counter()
    with lock.shared():
        waited_s = time.perf_counter() - start
    assert 0.1 < lock.waited_s <= waited_s
    before = lock.waited_s
    with lock.shared():
        pass
    assert lock.waited_s == before
    timer.join()
    measuring.end()


def test_released_by_an_error() -> None:
    lock = DeviceLock("cpu")
    for kind in (lock.shared, lock.exclusive):
        with pytest.raises(RuntimeError, match="in the step"), kind():
            raise RuntimeError("in the step")
    with DeviceLock("cpu").exclusive():
        pass


def test_two_devices_do_not_meet() -> None:
    with DeviceLock("cpu").exclusive(), DeviceLock("meta").exclusive():
        pass


def test_a_step_inside_a_step_is_our_mistake() -> None:
    lock = DeviceLock("cpu")
    with lock.shared(), pytest.raises(AssertionError), lock.exclusive():
        pass


def test_files_serve_every_user(own_temporary_folder: Path) -> None:
    umask = os.umask(0o077)
    try:
        DeviceLock("cpu")
    finally:
        os.umask(umask)
    modes = [path.stat().st_mode & 0o777 for path in own_temporary_folder.iterdir()]
    assert modes == [0o644, 0o644]


def test_deleted_files_are_made_again(own_temporary_folder: Path) -> None:
    lock = DeviceLock("cpu")
    for path in own_temporary_folder.iterdir():
        path.unlink()
    with lock.shared():
        measuring = Holder("exclusive")
        assert not measuring.has_it(within_s=0.2)
    assert measuring.has_it()
    measuring.end()


@pytest.mark.parametrize("folder", ["/proc", "/nowhere"])
def test_folder_that_cannot_be_written(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", folder)
    with pytest.raises(UserError, match="TMPDIR"):
        DeviceLock("cpu")


def test_no_symbolic_link_is_followed(own_temporary_folder: Path) -> None:
    (own_temporary_folder / "lra-bench-cpu.room").symlink_to("/etc/passwd")
    with pytest.raises(UserError, match="TMPDIR"):
        DeviceLock("cpu")


def test_a_step_pays_microseconds() -> None:
    lock, taken_us = DeviceLock("cpu"), []
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(100):
            with lock.shared():
                pass
        taken_us.append((time.perf_counter() - start) * 1e4)
    # 4 here; the bound only catches a change of kind
    assert statistics.median(taken_us) < 100
