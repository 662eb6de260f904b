"""One token after N others: a causal mixer at work step by step."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels.errors import Unsupported
from lra.measurement.memory import MIB, tensors_in
from models.mixer import Mixer


class Decoder:
    """A mixer that has read as many tokens as it was given.

    Args:
        mixer: causal, recurrent, in eval mode.
        x: the tokens that it has read, ``(B, N, D)``.

    Raises:
        Unsupported: it does not decode step by step.
    """

    def __init__(self, mixer: Mixer, x: Tensor):
        if not mixer.causal:
            raise Unsupported("decoding needs a causal mixer: task.causal=true")
        self._mixer, self._token = mixer, x[:, -1]
        with torch.no_grad():
            self._state, sizes = mixer.init_state(x.shape[0]), []
            for token in x.unbind(1):
                _, self._state = mixer.step(token, self._state)
                sizes.append(self.state_mib)
                # a state that does not grow from the first token on is the same at every length
                if len(sizes) == 2 and sizes[0] == sizes[1]:
                    break

    def step(self) -> Tensor:
        """The mixed next token ``(B, D)``; it is not kept, so that every call is the same one."""
        with torch.no_grad():
            return self._mixer.step(self._token, self._state)[0]

    @property
    def held(self) -> Sequence[object]:
        """What exists before a step: the mixer, the token, the state."""
        return self._mixer, self._token, self._state

    @property
    def state_mib(self) -> float:
        """Memory of the state."""
        return sum(t.numel() * t.element_size() for t in tensors_in(self._state)) / MIB
