"""Mixers as a user writes them, outside the repository, and ways in which one can fail."""

import os
import signal
import time
from dataclasses import replace

import torch
from torch import nn

from kernels.errors import Unsupported
from models.card import Card
from models.mixer import Mixer

CARD = Card(
    title="Running mean", authors="Nobody", year=2026, link="https://example.org", family="linear",
    time="N d", memory="N d", causality="masked", bidirectional=True,
)  # fmt: skip


class MyMixer(Mixer):
    """Mean of the values, of all real positions or of those so far, with dropout."""

    card = CARD

    def __init__(self, dim, *, gain: float = 1.0, **standard):
        super().__init__(dim, **standard)
        self.gain = gain
        self.value = nn.Linear(dim, dim)
        self.drop = nn.Dropout(self.dropout)

    def forward(self, x, mask=None, *, context=None, context_mask=None):
        self.check(x, mask, context)
        weight = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].to(x.dtype)
        v = self.value(x).masked_fill(weight == 0, 0)
        if self.causal:
            mean = v.cumsum(1) / weight.cumsum(1).clamp(min=1)
        else:
            mean = (v.sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)).expand_as(v)
        return self.drop(self.gain * mean)


class Broken(MyMixer):
    """Raises in its third forward."""

    def forward(self, x, mask=None, **context):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 3:
            raise RuntimeError("the mixer\nis broken")
        return super().forward(x, mask, **context)


class BrokenForSeedOne(MyMixer):
    """Raises where the run's seed is 1: it is read off torch's generator."""

    def __init__(self, dim, **standard):
        super().__init__(dim, **standard)
        self.fails = torch.initial_seed() == 1

    def forward(self, x, mask=None, **context):
        if self.fails:
            raise RuntimeError("seed one is broken")
        return super().forward(x, mask, **context)


class OutOfMemory(MyMixer):
    """Asks for half a tebibyte, as the allocator of a full device would refuse it."""

    def forward(self, x, mask=None, **context):
        torch.empty(2**39, dtype=torch.uint8)
        return super().forward(x, mask, **context)


class Restless(MyMixer):
    """Draws random numbers in evaluation, too, as hashing methods do."""

    def forward(self, x, mask=None, **context):
        y = super().forward(x, mask, **context)
        return y * (1 + 0.1 * torch.randn(y.shape[-1]))


class ShortOnly(MyMixer):
    """Its gate has one entry a position, so it takes no longer sequence."""

    card = replace(CARD, length_bound=("gate",))

    def __init__(self, dim, **standard):
        super().__init__(dim, **standard)
        self.gate = nn.Parameter(torch.ones(self.max_len))

    def forward(self, x, mask=None, **context):
        y = super().forward(x, mask, **context)
        return y * self.gate[: x.shape[1], None]


class CausalOnly(MyMixer):
    """Sees one side."""

    card = replace(CARD, causality="native", bidirectional=False)


class Refusing(MyMixer):
    """Says no where only the first batch can tell."""

    def forward(self, x, mask=None, **context):
        raise Unsupported("refuses [/every] sequence")


class BrokenAtBirth(MyMixer):
    """A constructor with a bug."""

    def __init__(self, dim, **standard):
        super().__init__(dim, **standard)
        self.no_such_thing += 1


class Killed(MyMixer):
    """Ends as the system ends a process that wants too much memory."""

    def forward(self, x, mask=None, **context):
        os.kill(os.getpid(), signal.SIGKILL)


class Slow(MyMixer):
    """A tenth of a second a forward, or ``SLOW_S``; notes each one in the file ``SLOW_LOG``."""

    def forward(self, x, mask=None, **context):
        time.sleep(float(os.environ.get("SLOW_S", "0.1")))
        if "SLOW_LOG" in os.environ:
            with open(os.environ["SLOW_LOG"], "a") as file:
                file.write(f"{os.getpid()}\n")
        return super().forward(x, mask, **context)


class Drawing(MyMixer):
    """Notes what each process draws in training, by rank, in the file ``DRAWN``."""

    def forward(self, x, mask=None, **context):
        if self.training:
            with open(os.environ["DRAWN"], "a") as file:
                file.write(f"{os.environ['RANK']} {torch.rand(()).item()}\n")
        return super().forward(x, mask, **context)


class Asked(MyMixer):
    """Its process is asked to stop in the third step, if it is the one of rank ``ASK_RANK``."""

    def forward(self, x, mask=None, **context):
        self.calls = getattr(self, "calls", 0) + 1
        if self.calls == 3 and os.environ.get("ASK_RANK") == os.environ.get("RANK", "0"):
            os.kill(os.getpid(), signal.SIGTERM)
        return super().forward(x, mask, **context)


class Greedy(MyMixer):
    """Asks for 8 GiB that it never touches: only a limit refuses it."""

    def forward(self, x, mask=None, **context):
        torch.empty(2**33, dtype=torch.uint8)
        return super().forward(x, mask, **context)


class Deaf(MyMixer):
    """The same whatever goes in."""

    def forward(self, x, mask=None, **context):
        return 0 * super().forward(x, mask, **context)


class NotANumber(MyMixer):
    """Divides by zero."""

    def forward(self, x, mask=None, **context):
        return super().forward(x, mask, **context) / 0


class SlowByLength(MyMixer):
    """A millisecond a position."""

    def forward(self, x, mask=None, **context):
        time.sleep(1e-3 * x.shape[1])
        return super().forward(x, mask, **context)


class KillsAtLength32(MyMixer):
    """Ends the process in a backward pass."""

    def forward(self, x, mask=None, **context):
        if x.shape[1] == 32 and torch.is_grad_enabled():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x, mask, **context)


class Tires(MyMixer):
    """Gives something else from its ninth call on, which only what is timed has."""

    calls = 0

    def forward(self, x, mask=None, **context):
        self.calls += 1
        return super().forward(x, mask, **context) + (self.calls > 8)


class Remembers(MyMixer):
    """Takes 60 ms, once for each tensor."""

    seen = {}

    def forward(self, x, mask=None, **context):
        at = x.data_ptr()
        if at not in self.seen:
            time.sleep(0.06)
            # the tensor is kept, so that no other one comes to lie there
            self.seen[at] = x, super().forward(x, mask, **context)
        return self.seen[at][1]
