"""One token after N others: a causal mixer or block at work step by step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lra.measurement.memory import MIB, tensors_in
from models.block import Block
from models.mixer import Mixer


class Decoder:
    """A mixer or block that has read as many tokens as it was given.

    Args:
        part: causal, recurrent, in eval mode.
        x: the tokens that it has read, ``(B, N, D)``.

    Raises:
        Unsupported: it does not decode step by step.
    """

    def __init__(self, part: Mixer | Block, x: Tensor):
        self._part, self._token = part, x[:, -1]
        with torch.no_grad():
            self._state, sizes = part.init_state(x.shape[0]), []
            for token in x.unbind(1):
                _, self._state = part.step(token, self._state)
                sizes.append(self.state_mib)
                # a state that does not grow from the first token on is the same at every length
                if len(sizes) == 2 and sizes[0] == sizes[1]:
                    break

    def step(self) -> Tensor:
        """The output ``(B, D)`` of one more token, which is not kept: every call is the same."""
        with torch.no_grad():
            return self._part.step(self._token, self._state)[0]

    @property
    def held(self) -> Sequence[object]:
        """What exists before a step: the system, the token, the state."""
        return self._part, self._token, self._state

    @property
    def state_mib(self) -> float:
        """Memory of the state."""
        return sum(t.numel() * t.element_size() for t in tensors_in(self._state)) / MIB
