"""Progress: plain lines without a terminal, a bar with one."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lra import progress as module
from lra.progress import progress

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture
def lines(caplog, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    caplog.set_level(logging.INFO, logger="lra.progress")
    return caplog


def test_a_job_shorter_than_a_line_interval_has_one_line(lines):
    with progress("making", 2000, unit="trees") as shown:
        shown.update(1000)
        shown.update(2000)
    (line,) = lines.messages
    assert line.startswith("making: 2,000/2,000 trees, ") and line.endswith("spent")


def test_lines_tell_rate_time_left_and_fields(lines, monkeypatch):
    monkeypatch.setattr(module, "LINE_EVERY_S", 0.0)
    clock = iter([0.0, 10.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(clock, 20.0))
    with progress("training", 1000, unit="steps", start=500) as shown:
        shown.update(600, loss=1.23456, acc=0.5, best="no")
    wanted = "training: 600/1,000 steps, 10.0/s, 0:00:40 left, loss 1.235, acc 0.5, best no"
    assert lines.messages[0] == wanted


def test_the_end_is_said_once(lines, monkeypatch):
    monkeypatch.setattr(module, "LINE_EVERY_S", 0.0)
    with progress("training", 2) as shown:
        shown.update(1)
        shown.update(2)
    assert [line[:13] for line in lines.messages] == ["training: 1/2", "training: 2/2"]


def test_a_failed_job_claims_no_end(lines):
    with pytest.raises(KeyError), progress("making", 10) as shown:
        shown.update(3)
        raise KeyError
    assert lines.messages == []


def test_a_terminal_gets_a_bar():
    code = """
from lra.progress import progress
with progress("training", 100, unit="steps") as shown:
    shown.update(40)
    shown.update(100, loss=0.25)
"""
    ours, theirs = os.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=CHECKOUT,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    seen = bytearray()

    def drain():
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:
                return
            if not part:
                return
            seen.extend(part)

    reader = threading.Thread(target=drain)
    reader.start()
    assert child.wait(60) == 0
    reader.join(10)
    os.close(ours)
    for text in (b"training", b"100/100", b"steps", b"loss 0.25"):
        assert text in seen
