"""Runs ring attention in processes that are forks of this one, which has imported everything:
``python ring_processes.py SIZE FOLDER`` leaves ``<rank>.pt``, what each process found in each case.
"""

import os
import sys
import traceback
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from models.mixers.exact.ring_attention import RingAttention

DIM = 12


@dataclass(frozen=True)
class Case:
    """A mixer and its input; ``rows`` of a process."""

    causal: bool = False
    positions: str = "none"
    balance: str = "none"
    masked: bool = False
    rows: int = 3
    dropout: float = 0.0

    def mixer(self) -> RingAttention:
        torch.manual_seed(0)
        mixer = RingAttention(
            DIM, heads=3, max_len=64, causal=self.causal, causal_balance=self.balance,
            dropout=self.dropout,
        )  # fmt: skip
        if self.positions != "none":
            getattr(mixer, f"use_{self.positions}")()
        return mixer.double()

    def inputs(self, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """x, the weights of a loss, and a mask with holes that hides all of one slice."""
        draw = torch.Generator().manual_seed(size)
        n = size * self.rows
        x, w = (torch.randn(2, n, DIM, dtype=torch.float64, generator=draw) for _ in "xw")
        if not self.masked:
            return x, w, None
        mask = torch.rand(2, n, generator=draw) > 0.3
        mask[1, self.rows :] = False
        mask[:, : self.rows] = True
        return x, w * mask[..., None], mask


CASES = {
    "both": Case(),
    "both, masked": Case(masked=True),
    "both, rotary": Case(positions="rotary"),
    "both, alibi": Case(positions="alibi", masked=True),
    "both, striped": Case(balance="striped", positions="alibi"),
    "causal": Case(True),
    "causal, masked": Case(True, masked=True),
    "causal, rotary": Case(True, "rotary"),
    "causal, alibi": Case(True, "alibi", masked=True),
    "one row": Case(True, "alibi", rows=1),
    "striped": Case(True, balance="striped"),
    "striped, masked": Case(True, balance="striped", masked=True),
    "striped, rotary": Case(True, "rotary", "striped"),
    "striped, alibi": Case(True, "alibi", "striped", masked=True),
    "striped, one row": Case(True, "alibi", "striped", rows=1),
}


def outcome(mixer, x, w, mask):
    """Output, gradient of x, and of each parameter."""
    x = x.detach().requires_grad_()
    y = mixer(x, mask)
    grads = torch.autograd.grad((y * w).sum(), [x, *mixer.parameters()])
    return y.detach(), *grads


def slice_of(case, size):
    mixer = case.mixer()
    mixer.use_ring(dist.group.WORLD)
    x, w, mask = (None if t is None else mixer.shard(t) for t in case.inputs(size))
    # who has nothing to hide need not say so
    return mixer, x, w, None if mask is None or mask.all() else mask


def dropped(size):
    """(loss differences along a direction, gradient along it), and rows that only dropout tells
    apart."""
    mixer, x, w, _ = slice_of(Case(True, dropout=0.4), size)
    direction, step, losses = torch.randn_like(x), 1e-6, []

    def run(x):
        torch.manual_seed(5)
        return mixer(x)

    for sign in (1, -1):
        losses.append((run(x + sign * step * direction) * w).sum().item())
    x.requires_grad_()
    (grad,) = torch.autograd.grad((run(x) * w).sum(), x)
    flat = slice_of(Case(dropout=0.4), size)[0]
    torch.manual_seed(5)
    return (
        (losses[0] - losses[1]) / (2 * step),
        (grad * direction).sum().item(),
        flat(torch.ones_like(x)).detach(),
    )


def half(size):
    mixer, x, _, _ = slice_of(Case(True), size)
    x = x.float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = mixer.float()(x)
    y.float().square().sum().backward()
    return y.detach(), x.grad


def refused(size, rank):
    """What uneven slices, a context, decoding and a length that does not divide are told."""
    mixer, x, _, _ = slice_of(Case(), size)
    said = []
    for ask in (
        lambda: mixer(x[:, : 3 - rank % 2]),
        lambda: mixer(x, context=x),
        lambda: mixer.init_state(1),
        lambda: mixer.shard(torch.zeros(1, size + 1)),
    ):
        try:
            ask()
            said.append("nothing")
        except ValueError as error:
            said.append(f"{type(error).__name__}: {error}")
    return said


def work(rank, size, folder):
    store = dist.FileStore(f"{folder}/store", size)
    dist.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=timedelta(seconds=60)
    )
    found = {name: outcome(*slice_of(case, size)) for name, case in CASES.items()}
    found |= {"dropped": dropped(size), "half": half(size), "refused": refused(size, rank)}
    torch.save(found, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    size, folder = int(sys.argv[1]), sys.argv[2]
    children = []
    for rank in range(size):
        child = os.fork()
        if not child:
            code = 1
            try:
                work(rank, size, folder)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(max(map(abs, codes)))


if __name__ == "__main__":
    main()
