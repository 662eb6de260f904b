"""One token after N others: a causal mixer at work step by step."""

import torch
from torch import Tensor

from kernels.errors import Unsupported
from lra.measurement.memory import MIB, tensors_in
from models.mixer import Mixer


class Decoder:
    """A mixer that has read ``length`` tokens.

    Args:
        mixer: causal, recurrent.
        x: tokens that it reads in turn, ``(B, N, D)``.

    Raises:
        Unsupported: it does not decode step by step.
    """

    def __init__(self, mixer: Mixer, x: Tensor):
        if not mixer.causal:
            raise Unsupported("decoding needs a causal mixer: task.causal=true")
        self._mixer, self._x, self._at = mixer.eval(), x, 0
        with torch.no_grad():
            self._state = mixer.init_state(x.shape[0])
        sizes = []
        for _ in range(x.shape[1]):
            self.step()
            sizes.append(self.state_mib)
            # a state that does not grow from the first token on is the same at every length
            if len(sizes) == 2 and sizes[0] == sizes[1]:
                break

    def step(self) -> Tensor:
        """The mixed next token ``(B, D)``."""
        token = self._x[:, self._at % self._x.shape[1]]
        with torch.no_grad():
            y, self._state = self._mixer.step(token, self._state)
        self._at += 1
        return y

    @property
    def state_mib(self) -> float:
        """Memory of the state."""
        return sum(t.numel() * t.element_size() for t in tensors_in(self._state)) / MIB
