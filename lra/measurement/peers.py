"""How long our mixers take beside the best-known public PyTorch modules of the same methods.

``python -m lra.measurement.peers [NAME ...] [--lengths 1024 8192] [--write]`` runs forward and
backward of both, by turns, at the same sizes on the CPU, and shows the ratio of the medians with
its bootstrap interval: below 1, ours is faster. Who is not installed is named and left out.
"""

import argparse
import csv
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

from lra.app import set_up_logging
from lra.conformance.subject import load
from lra.errors import UserError, nearest
from lra.freed_memory import keep_freed_memory
from lra.measurement.lock import DeviceLock
from lra.measurement.peer_modules import PEERS, Peer, Size
from lra.measurement.timing import ratio, sample_ms
from lra.resolvers import checkout
from lra.results.fingerprint import fingerprint
from lra.results.packs import device_slug

log = logging.getLogger("lra.peers")
LENGTHS = (1024, 2048, 4096, 8192)
HEADER = (
    f"{'peer':22}{'ours':26}{'N':>6}{'ours ms':>10}{'peer ms':>10}"
    f"{'ratio':>8}  {'95 % interval':16}{'parameters, ours and peer':>26}"
)


@dataclass(frozen=True, kw_only=True)
class PeerRow:
    """One peer at one length: medians of forward and backward, and the ratio of ours to its."""

    peer: str
    peer_version: str
    model: str
    mixer_knobs: str
    length: int
    batch: int
    dim: int
    heads: int
    causal: bool
    masked: bool
    ours_ms: float
    peer_ms: float
    ratio: float
    ratio_low: float
    ratio_high: float
    n_samples: int
    ours_params: int
    peer_params: int
    device: str
    n_threads: int
    versions: str
    git_sha: str
    date: str


def compare(name: str, size: Size, *, batch: int, seconds: float) -> PeerRow:
    """Both sides, timed by turns.

    Raises:
        ImportError: the peer is not installed.
    """
    peer = PEERS[name]
    torch.manual_seed(0)
    theirs = peer.build(size).train()
    ours = _ours(peer, size)
    x = torch.randn(batch, size.length, size.dim)
    mask = None
    if peer.mask is not None:
        # an eighth of every example is padding
        mask = (torch.arange(size.length) < size.length - size.length // 8).expand(batch, -1)
    functions = {
        "ours": _pass(ours, lambda x: ours(x, mask), x),
        "peer": _pass(theirs, lambda x: peer.call(theirs, x, mask), x),
    }
    with DeviceLock("cpu").exclusive():
        found = sample_ms(functions, device="cpu", warmup=2, min_samples=5, budget_s=seconds)
    told, here = ratio(found["ours"], found["peer"]), fingerprint("cpu")
    medians = {side: torch.tensor(ms).quantile(0.5).item() for side, ms in found.items()}
    return PeerRow(
        peer=name, peer_version=_version(peer), model=peer.model,
        mixer_knobs=" ".join(f"{key}={value}" for key, value in peer.knobs.items()),
        length=size.length, batch=batch, dim=size.dim, heads=size.heads, causal=peer.causal,
        masked=mask is not None, ours_ms=medians["ours"], peer_ms=medians["peer"],
        ratio=told.value, ratio_low=told.low, ratio_high=told.high, n_samples=told.n,
        ours_params=_numbers(ours), peer_params=_numbers(theirs), device=here.device,
        n_threads=here.n_threads, versions=here.versions, git_sha=here.git_sha,
        date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    )  # fmt: skip


def _ours(peer: Peer, size: Size) -> nn.Module:
    subject = load(peer.model, sized=None).with_knobs(**peer.knobs)
    system = subject.build(
        "causal" if peer.causal else "both", max_len=size.length, dtype=torch.float32,
        dim=size.dim, heads=size.heads,
    )  # fmt: skip
    return system.part.train()


def _pass(module: nn.Module, call: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], object]:
    """Forward and backward, gradients of input and parameters."""
    x = x.clone().requires_grad_()

    def once() -> None:
        module.zero_grad(set_to_none=True)
        x.grad = None
        y = call(x)
        assert y.shape == x.shape, f"{tuple(y.shape)} out of {tuple(x.shape)}"
        y.square().mean().backward()

    return once


def _numbers(module: nn.Module) -> int:
    """Real numbers that are trained: a complex one is two."""
    return sum(p.numel() * (1 + p.is_complex()) for p in module.parameters() if p.requires_grad)


def _version(peer: Peer) -> str:
    name = peer.install.split()[2] if peer.install.startswith("pip") else ""
    try:
        return metadata.version(name) if name else ""
    except metadata.PackageNotFoundError:
        return ""


def compare_all(
    names: Sequence[str],
    lengths: Sequence[int],
    *,
    batch: int,
    dim: int,
    heads: int,
    seconds: float,
) -> Iterator[PeerRow]:
    """A row of each peer that is here at each length; the others are named once."""
    for name in names:
        try:
            for length in lengths:
                size = Size(dim, heads, length)
                yield compare(name, size, batch=batch, seconds=seconds)
        except ImportError as error:
            log.info("%-22snot here (%s): %s", name, error, PEERS[name].install)


def write(rows: Sequence[PeerRow], results: Path) -> Path:
    """The rows as ``measured/peers/<device>.csv``, in the place of what is there."""
    path = results / "measured" / "peers" / f"{device_slug(rows[0].device)}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, [field.name for field in fields(PeerRow)], lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    return path


def _line(row: PeerRow) -> str:
    interval = f"{row.ratio_low:.2f} to {row.ratio_high:.2f}"
    parameters = f"{row.ours_params} {row.peer_params}"
    return (
        f"{row.peer:22}{row.model:26}{row.length:>6}{row.ours_ms:>10.1f}{row.peer_ms:>10.1f}"
        f"{row.ratio:>8.2f}  {interval:16}{parameters:>26}"
    )


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser("python -m lra.measurement.peers", description=__doc__)
    found.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PEERS))
    found.add_argument("--lengths", nargs="+", type=int, default=LENGTHS, metavar="N")
    found.add_argument("--batch", type=int, default=1)
    found.add_argument("--dim", type=int, default=128)
    found.add_argument("--heads", type=int, default=4)
    found.add_argument("--seconds", type=float, default=10.0, help="of timing a peer and length")
    found.add_argument("--write", action="store_true", help="to results/measured/peers")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Shows the table; writes it only if asked."""
    set_up_logging()
    options = parser().parse_args(arguments)
    try:
        for name in options.names:
            if name not in PEERS:
                raise nearest(name, PEERS, kind="peer")
        log.info("%s, %d threads", fingerprint("cpu").device, torch.get_num_threads())
        log.info("%s", HEADER)
        rows = []
        for row in compare_all(
            options.names or list(PEERS), options.lengths, batch=options.batch, dim=options.dim,
            heads=options.heads, seconds=options.seconds,
        ):  # fmt: skip
            rows.append(row)
            log.info("%s", _line(row))
    except UserError as error:
        log.error("error: %s", error)
        return 2
    if not rows:
        log.info("no peer is installed: nothing compared")
    elif options.write:
        log.info("wrote %s", write(rows, Path(checkout()) / "results"))
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
