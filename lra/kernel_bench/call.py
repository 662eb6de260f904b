"""One op on one set of inputs, and whether what a backend makes of it is right."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from kernels.tolerance import Closeness, assert_close_to_truth, worst
from lra.kernel_bench.draw import Inputs
from lra.measurement.attempt import Wrong

Results = dict[str, Tensor]


class Call:
    """A public function of ``kernels`` on its inputs, forward and backward.

    The gradient is that of the first tensor returned (states come after the output) along a fixed
    normal cotangent.

    Args:
        function: the op.
        inputs: its arguments.
        cotangent: of the output; drawn at the first call that needs it if None.
    """

    def __init__(
        self, function: Callable[..., Any], inputs: Inputs, cotangent: Tensor | None = None
    ):
        self.function, self.inputs, self.cotangent = function, inputs, cotangent
        self._leaves = {name: x.detach() for name, x in inputs.tensors.items()}
        self._wanted = [self._leaves[name].requires_grad_() for name in inputs.wanted]

    def run(self, backend: str, pass_: str) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Output and gradients of a pass: what is timed."""
        if pass_ == "forward":
            with torch.no_grad():
                return self._output(self.inputs.tensors, backend), ()
        output = self._output(self._leaves, backend)
        if self.cotangent is None:
            self.cotangent = _cotangent(output)
        return output, torch.autograd.grad(output, self._wanted, self.cotangent, allow_unused=True)

    def results(self, backend: str, pass_: str) -> Results:
        """Output and gradients by name; a missing gradient is one of zeros."""
        output, grads = self.run(backend, pass_)
        found = {"output": output.detach()}
        for name, grad in zip(self.inputs.wanted, grads, strict=False):
            found[f"grad {name}"] = torch.zeros_like(self._leaves[name]) if grad is None else grad
        return found

    def exact(self) -> "Call":
        """The same call in fp64; needs the cotangent if it is to give the same gradients."""
        tensors = {name: _double(x) for name, x in self.inputs.tensors.items()}
        cotangent = None if self.cotangent is None else _double(self.cotangent)
        return Call(self.function, replace(self.inputs, tensors=tensors), cotangent)

    def moved_bytes(self, pass_: str) -> int:
        """Bytes that a pass cannot avoid to read or write: inputs and output, and backward the
        cotangent and the gradients, each once."""
        assert self.cotangent is not None, "the output is not known before the first call"
        moved = sum(x.nbytes for x in self.inputs.tensors.values()) + self.cotangent.nbytes
        if pass_ == "forward_backward":
            moved += self.cotangent.nbytes + sum(x.nbytes for x in self._wanted)
        return moved

    def held(self, pass_: str) -> list[Tensor | None]:
        """What exists before a pass and belongs to its memory."""
        tensors: list[Tensor | None] = [*self.inputs.tensors.values()]
        return tensors if pass_ == "forward" else [*tensors, self.cotangent]

    def _output(self, tensors: Mapping[str, Tensor], backend: str) -> Tensor:
        returned = self.function(**tensors, **self.inputs.options, backend=backend)
        output: Tensor = tree_leaves(returned)[0]
        return output


class Truth:
    """Results in fp64 and in the tested dtype, to which backends are held.

    Args:
        call: in the tested dtype; gets its cotangent here.
        backend: whose results are taken for true.
        grads: whether the backward pass is compared too.
    """

    def __init__(self, call: Call, backend: str, *, grads: bool):
        self.low = call.results(backend, "forward_backward")
        self.exact = call.exact().results(backend, "forward_backward")
        if not grads:
            self.low, self.exact = ({"output": x["output"]} for x in (self.low, self.exact))
        self._largest = max(_largest(x) for x in self.exact.values())

    def hold(self, results: Mapping[str, Tensor]) -> Closeness:
        """The result that came closest to its tolerance.

        Raises:
            Wrong: one is outside of it.
        """
        measured = {}
        for name, x in results.items():
            truth, low = self.exact[name], self.low[name]
            own = _largest(truth)
            # what vanishes beside the others is held to rounding on their scale
            vanishes = own <= torch.finfo(low.dtype).eps * self._largest
            scale = self._largest if vanishes else own
            try:
                measured[name] = assert_close_to_truth(name, x, truth, low, scale=scale)
            except AssertionError as error:
                raise Wrong(str(error)) from error
        return worst(measured)


def _cotangent(output: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(output.numel())
    kind = torch.complex64 if output.is_complex() else torch.float32
    return torch.randn(output.shape, dtype=kind, generator=generator).to(output)


def _double(x: Tensor) -> Tensor:
    if x.is_complex():
        return x.to(torch.complex128)
    return x.to(torch.float64) if x.is_floating_point() else x


def _largest(x: Tensor) -> float:
    x = x.abs()
    finite = torch.isfinite(x)
    return float(x[finite].max()) if finite.any() else 0.0
