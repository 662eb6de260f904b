"""The speed targets of the ops: every one is measured and judged."""

import tempfile

import pytest

from lra.measurement import targets
from lra.measurement.targets import CAUSAL_SDPA, SDPA, TARGETS


@pytest.fixture(autouse=True)
def own_locks(monkeypatch, tmp_path):
    """Nothing waits for a measurement elsewhere."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_every_target_is_measured_in_one_run():
    samples = targets.measure(64, 5)
    assert len(samples) == len(TARGETS) + 2
    assert all(len(taken) == 5 and min(taken) > 0 for taken in samples.values())
    for target in TARGETS:
        found, _ = target.judge(samples)
        assert found.low <= found.value <= found.high


def test_faster_and_slower_than_asked():
    window, scan = TARGETS[2], TARGETS[4]
    samples = {str(SDPA): [130.0] * 5, str(window.ours): [10.0] * 5, str(scan.ours): [501.0] * 5}
    assert window.judge(samples)[1] and not scan.judge(samples)[1]
    assert window.line(samples).split()[-4:] == ["13.0x", "13.0", "to", "13.0"]
    assert "faster than sdpa 12x" in window.line(samples)
    assert scan.line(samples).endswith("MISSED") and "at most 500 ms" in scan.line(samples)
    assert not window.judge(samples | {str(window.ours): [11.0] * 5})[1]


@pytest.mark.parametrize(("scan_ms", "code"), [(200.0, 0), (600.0, 1)])
def test_a_missed_target_is_the_exit_code(monkeypatch, caplog, scan_ms, code):
    caplog.set_level("INFO")
    samples = {str(target.ours): [10.0] * 5 for target in TARGETS}
    samples |= {str(rival): [1000.0] * 5 for rival in (SDPA, CAUSAL_SDPA)}
    samples[str(TARGETS[4].ours)] = [scan_ms] * 5
    monkeypatch.setattr(targets, "measure", lambda length, rounds: samples)
    assert targets.main() == code
    said = [record.getMessage() for record in caplog.records if record.name == "lra.targets"]
    assert len(said) == 2 + 2 + len(TARGETS)
