"""The precision of the frozen part of a forward pass, by what the device can do.

`auto` is half precision on GPUs and single precision on CPUs. There `half` must be asked for: only
CPUs with bfloat16 instructions gain from it (docs/scale.md has how much, and how far scores move),
and a cluster of several kinds of CPU would give rows of two precisions. What follows the frozen
part (adapters, evidence, probabilities) is always in single precision.

On GPUs it is float16: as fast as bfloat16, and ten times closer to single precision
(benchmarks/README.md). Numbers above 65504 do not fit: a detector scores images that reach them
again in single precision.
"""

from typing import Literal

import torch

from sdmad.errors import UserError

Precision = Literal["auto", "single", "half"]
# Without them bfloat16 is emulated, and many times slower than single precision.
CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")


def half_type(device: torch.device, precision: Precision) -> torch.dtype | None:
    """The half precision type to compute in on `device`; None for single precision.

    Raises `UserError` when `half` is asked of a CPU that is slower with it.
    """
    if precision == "single" or (precision == "auto" and device.type != "cuda"):
        return None
    if device.type == "cuda":
        return torch.float16
    if not cpu_has_bfloat16():
        raise UserError(
            "this CPU has no bfloat16 instructions (AVX-512 BF16 or AMX), and would be slower in "
            "half precision; use --precision auto or single"
        )
    return torch.bfloat16


def cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware."""
    return any(torch.cpu.get_capabilities().get(name) for name in CPU_INSTRUCTIONS)
