"""Transformer blocks for CPUs, with weights packed once for oneDNN; for inference only.

    tower = image_tower(clip).packed(torch.float32)

PyTorch hands every matrix product of a CPU to MKL, with the weights as they stand. Laid out for
oneDNN beforehand, and with the GELU in the same pass, a ViT-B/32 takes less time on CPUs with
AVX-512 and more on those without, equal but for the order of sums (benchmarks/README.md has how
much on which CPU); a detector packs where it pays. torch.compile emits the same
operators for oneDNN, but needs a compiler on every node; `benchmarks/gpu_forward.py --compiled`
compares them.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

# Tokens of a batch that the layout is chosen for; it is right for any number.
ROWS = 64 * 50


class PackedLinear(nn.Module):
    """`nn.Linear`, and the GELU behind it when given; computes in `dtype`.

    (..., D) of any floating type -> (..., N) of `dtype`.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        dtype: torch.dtype,
        gelu: nn.GELU | None = None,
    ) -> None:
        super().__init__()
        # Some blocks of timm look at it; shared with the layer that this one replaces.
        self.weight = weight
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype), ROWS)
        self.bias = None if bias is None else bias.detach().to(dtype)
        self.dtype = dtype
        self.after = ("none", "") if gelu is None else ("gelu", gelu.approximate)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        name, variant = self.after
        return torch.ops.mkldnn._linear_pointwise(
            x.to(self.dtype), self.packed, self.bias, name, [], variant
        )


class PackedAttention(nn.Module):
    """`nn.MultiheadAttention` of tokens with one width, batch first; keys are the values."""

    def __init__(self, attention: nn.MultiheadAttention, dtype: torch.dtype) -> None:
        super().__init__()
        width, weight, bias = attention.embed_dim, attention.in_proj_weight, attention.in_proj_bias
        query, both = (None, None) if bias is None else (bias[:width], bias[width:])
        self.heads = attention.num_heads
        self.query = PackedLinear(weight[:width], query, dtype)
        self.key_value = PackedLinear(weight[width:], both, dtype)
        self.output = PackedLinear(attention.out_proj.weight, attention.out_proj.bias, dtype)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        need_weights: bool = False,
        attn_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, None]:
        if key is not value or need_weights:
            raise AssertionError("packed attention is for blocks of an image tower")
        q = self.query(query).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = self.key_value(key).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask)
        return self.output(attended.transpose(1, 2).flatten(2)), None


def pack(module: nn.Module, dtype: torch.dtype) -> None:
    """Replace the layers inside `module` that are known; others stay as they are."""
    children = [*module.named_children(), ("", nn.Identity())]
    for (name, child), (after, follower) in pairwise(children):
        if isinstance(child, nn.MultiheadAttention) and _plain(child):
            setattr(module, name, PackedAttention(child, dtype))
        elif type(child) is nn.Linear:
            in_order = isinstance(module, nn.Sequential)
            fused = follower if in_order and isinstance(follower, nn.GELU) else None
            setattr(module, name, PackedLinear(child.weight, child.bias, dtype, fused))
            if fused is not None:
                setattr(module, after, nn.Identity())
        elif not isinstance(child, nn.MultiheadAttention):
            pack(child, dtype)


def can_pack(dtype: torch.dtype = torch.float32) -> bool:
    """Whether this PyTorch has oneDNN and the operators, and this CPU the type."""
    names = ("_linear_pointwise", "_reorder_linear_weight", "_is_mkldnn_bf16_supported")
    if not torch.backends.mkldnn.is_available():
        return False
    if not all(hasattr(torch.ops.mkldnn, name) for name in names):
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def packing_pays(dtype: torch.dtype = torch.float32) -> bool:
    """Whether packed blocks are faster than PyTorch's own on this CPU, as far as was measured."""
    return can_pack(dtype) and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def _plain(attention: nn.MultiheadAttention) -> bool:
    extras = (attention.bias_k, attention.bias_v)
    return (
        attention.batch_first
        and attention.in_proj_weight is not None
        and not attention.add_zero_attn
        and all(extra is None for extra in extras)
    )
