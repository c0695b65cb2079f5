"""torch's module of attention as the operations that it consists of, so that they can be cut."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn import functional


def opens(attention: nn.Module, args: tuple, kwargs: dict[str, Any]) -> bool:
    """Whether ``self_attention`` is what a module does with these arguments: attention of vectors to themselves, the
    batch first, without masks and dropout, that is not asked for its weights.
    """
    if not isinstance(attention, nn.MultiheadAttention) or attention.in_proj_weight is None:
        return False
    plain = attention.batch_first and not attention.dropout and not attention.add_zero_attn
    given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
    same = given.get("query") is given.get("key") is given.get("value")
    others = given.keys() - {"query", "key", "value", "need_weights"}
    return plain and attention.bias_k is None and same and not others and given.get("need_weights") is False


def self_attention(attention: nn.MultiheadAttention, x: Any) -> tuple[Any, None]:
    """What it gives of vectors ``[B, N, C]``."""
    images, places, _ = x.shape
    joined = functional.linear(x, attention.in_proj_weight, attention.in_proj_bias)
    sizes = (images, places, attention.num_heads, attention.head_dim)
    q, k, v = (part.reshape(*sizes).transpose(1, 2) for part in (joined.chunk(3, -1)[i] for i in range(3)))
    y = functional.scaled_dot_product_attention(q, k, v)
    return attention.out_proj(y.transpose(1, 2).reshape(images, places, attention.embed_dim)), None
