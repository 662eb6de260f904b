"""The comparison with public modules: who is missing is named, who is there is timed."""

import csv
import sys
import tempfile
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lra.measurement import peer_modules, peers
from lra.measurement.peer_modules import PEERS, Size


@pytest.fixture(autouse=True)
def lines(caplog, monkeypatch, tmp_path):
    """What was said; locks of their own, so that nothing waits for a measurement elsewhere."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return lambda: [record.getMessage() for record in caplog.records if record.name == "lra.peers"]


@pytest.fixture
def nothing_installed(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named '{name}'")

    monkeypatch.setattr(peer_modules, "import_module", missing)


class PublicLinformer(nn.Module):
    """Its constructor's arguments are those of the real one."""

    def __init__(self, dim, seq_len, *, k, heads, dim_head):
        super().__init__()
        self.inner = nn.Linear(dim, heads * dim_head)
        self.turn = nn.Parameter(torch.ones(2, dtype=torch.complex64))

    def forward(self, x):
        return self.inner(x) * self.turn.prod().real


@pytest.fixture
def linformer(monkeypatch):
    found = SimpleNamespace(LinformerSelfAttention=PublicLinformer)
    monkeypatch.setitem(sys.modules, "linformer", found)


SHORT = ("--lengths", "16", "32", "--dim", "16", "--heads", "2", "--seconds", "0.01")


def test_nothing_installed_says_so_and_is_no_error(nothing_installed, lines):
    assert peers.main(["--write"]) == 0
    said = lines()
    for name, peer in PEERS.items():
        (line,) = [line for line in said if line.startswith(f"{name} ")]
        assert f"No module named '{peer.module}'" in line and line.endswith(peer.install)
    assert said[-1] == "no peer is installed: nothing compared"


def test_both_sides_are_timed(linformer, lines):
    rows = list(peers.compare_all(["linformer"], [16, 32], batch=2, dim=16, heads=2, seconds=0.01))
    assert [row.length for row in rows] == [16, 32] and not rows[0].masked
    for row in rows:
        assert row.ours_ms > 0 and row.peer_ms > 0 and row.n_samples >= 5
        assert row.ratio == pytest.approx(row.ours_ms / row.peer_ms)
        assert row.ratio_low <= row.ratio <= row.ratio_high
    # a complex number is two
    assert rows[0].peer_params == 16 * 16 + 16 + 4
    # four projections, and two of 16 positions to 128 slots
    assert rows[0].ours_params == 4 * 16 * 16 + 2 * 128 * 16


def test_written_only_when_asked(linformer, lines, monkeypatch, tmp_path):
    monkeypatch.setattr(peers, "checkout", lambda: str(tmp_path))
    assert peers.main(["linformer", *SHORT]) == 0
    assert not (tmp_path / "results").exists()
    assert peers.main(["linformer", *SHORT, "--write"]) == 0
    (path,) = (tmp_path / "results" / "measured" / "peers").glob("*.csv")
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["length"] for row in rows] == ["16", "32"]
    assert rows[0]["model"] == "linformer" and rows[0]["mixer_knobs"] == "k=128 share=headwise"
    assert lines()[-1] == f"wrote {path}"


def test_another_package_of_that_name_is_no_peer(monkeypatch, lines):
    monkeypatch.setitem(sys.modules, "s4d", SimpleNamespace())
    assert peers.main(["s4d", *SHORT]) == 0
    assert any("'s4d' has no S4D: it is another package" in line for line in lines())


def test_unknown_name_says_the_nearest(lines):
    assert peers.main(["linformr"]) == 2
    assert lines()[-1] == "error: unknown peer 'linformr': did you mean 'linformer'?"


@pytest.mark.parametrize("name", PEERS)
def test_our_side_builds_with_its_knobs(name):
    peer = PEERS[name]
    size = Size(dim=16, heads=2, length=130)
    mixer = peers._ours(peer, size)
    assert mixer.causal == peer.causal and mixer.training
    x = torch.randn(1, 130, 16)
    assert mixer(x, torch.ones(1, 130, dtype=torch.bool)).shape == x.shape


@pytest.mark.parametrize("name", PEERS)
def test_the_public_side_builds_and_keeps_the_shape(name):
    peer = PEERS[name]
    found = pytest.importorskip(peer.module, exc_type=ImportError)
    if not hasattr(found, peer.attribute):
        pytest.skip(f"'{peer.module}' is another package")
    # two of the buckets and blocks of 64, and keys enough for 128 slots
    theirs = peer.build(Size(dim=16, heads=2, length=128)).eval()
    x = torch.randn(2, 128, 16)
    mask = None if peer.mask is None else (torch.arange(128) < 112).expand(2, -1)
    with torch.no_grad():
        assert peer.call(theirs, x, mask).shape == x.shape
