"""A kernel's specialisation for the compile gate, from its argument names."""

from collections.abc import Mapping
from typing import Any

from kernels.triton_tools import Tuned, Variant

# a tensor's dtype as in a table -> as in a Triton signature
DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


def variant(
    tuned: Tuned,
    config: Any,
    dtype: str,
    inputs: str,
    constants: Mapping[str, Any],
    *,
    fp64: str = "",
) -> Variant:
    """Of a kernel whose pointers are fp32, but those named in ``inputs`` (of ``dtype``), ``fp64``.

    Other arguments are constants or i32. A pointer's name ends in ``_ptr``.
    """
    values = {**constants, **config.kwargs}
    signature = {}
    for name in tuned.fn.arg_names:
        if name in values:
            signature[name] = "constexpr"
        elif name.endswith("_ptr"):
            kinds = dict.fromkeys(inputs.split(), DTYPES[dtype]) | dict.fromkeys(
                fp64.split(), "fp64"
            )
            signature[name] = f"*{kinds.get(name.removesuffix('_ptr'), 'fp32')}"
        else:
            signature[name] = "i32"
    sizes = [f"{name.lower()}{value}" for name, value in config.kwargs.items()]
    return Variant(
        kernel=tuned.fn.__name__,
        fn=tuned.fn,
        signature=signature,
        constants=values,
        dtype=dtype,
        config="_".join([*sizes, f"warps{config.num_warps}"]),
        warps=config.num_warps,
        stages=config.num_stages,
        default=config is tuned.configs[0],
    )
