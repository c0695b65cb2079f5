"""torch's module of attention as the operations that it consists of, so that they can be cut."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn import functional


def opens(
    attention: nn.MultiheadAttention,
    query: Any = None,
    key: Any = None,
    value: Any = None,
    *others: Any,
    **options: Any,
) -> bool:
    """Whether ``self_attention`` is what the module does: attention of vectors to themselves, the batch first, without
    masks and dropout, that is not asked for its weights.
    """
    plain = attention.in_proj_weight is not None and attention.bias_k is None and not attention.add_zero_attn
    plain = plain and attention.batch_first and not attention.dropout
    given = {name: value for name, value in options.items() if value is not None}
    return plain and query is key is value and not others and given == {"need_weights": False}


def self_attention(attention: nn.MultiheadAttention, x: Any, *args: Any, **options: Any) -> tuple[Any, None]:
    """What it gives of vectors ``[B, N, C]``."""
    images, places, _ = x.shape
    joined = functional.linear(x, attention.in_proj_weight, attention.in_proj_bias).chunk(3, -1)
    sizes = images, places, attention.num_heads, attention.head_dim
    q, k, v = (joined[i].reshape(*sizes).transpose(1, 2) for i in range(3))
    y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
    return attention.out_proj(y.reshape(images, places, attention.embed_dim)), None
