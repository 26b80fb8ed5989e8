"""A Llama in plain torch, under transformers' parameter names.

Training and exact scoring run through here without loading transformers; a test holds
it to what transformers computes from the same folder.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from evomerge.zoo.recipes import HEAD_DIM, Shape

State = dict[str, Tensor]
"""Parameter name to float32 tensor."""

ROPE_THETA = 10000.0
NORM_EPS = 1e-5
EMBED = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
_EMBED_STD = 0.02


def initial_state(shape: Shape, vocab: int, seed: int) -> State:
    """Draw the weights of an untrained model.

    Matrices are normal with deviation 1/sqrt(fan-in); those that write to the residual
    stream are smaller by another sqrt(2 * layers).
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int, columns: int, std: float) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * std

    hidden, wide = shape.hidden, shape.intermediate
    queries, keys = shape.heads * HEAD_DIM, shape.kv_heads * HEAD_DIM
    residual = (2 * shape.layers) ** -0.5
    state = {EMBED: normal(vocab, hidden, _EMBED_STD)}
    for layer in range(shape.layers):
        at = f"model.layers.{layer}."
        fan = hidden**-0.5
        state[at + "self_attn.q_proj.weight"] = normal(queries, hidden, fan)
        state[at + "self_attn.k_proj.weight"] = normal(keys, hidden, fan)
        state[at + "self_attn.v_proj.weight"] = normal(keys, hidden, fan)
        state[at + "self_attn.o_proj.weight"] = normal(
            hidden, queries, queries**-0.5 * residual
        )
        state[at + "mlp.gate_proj.weight"] = normal(wide, hidden, fan)
        state[at + "mlp.up_proj.weight"] = normal(wide, hidden, fan)
        state[at + "mlp.down_proj.weight"] = normal(hidden, wide, wide**-0.5 * residual)
        state[at + "input_layernorm.weight"] = torch.ones(hidden)
        state[at + "post_attention_layernorm.weight"] = torch.ones(hidden)
    state["model.norm.weight"] = torch.ones(hidden)
    state[HEAD] = normal(vocab, hidden, _EMBED_STD)
    return state


def n_layers(state: Mapping[str, Tensor]) -> int:
    """Count the layers of a state."""
    return sum(name.endswith(".self_attn.q_proj.weight") for name in state)


def logits(state: Mapping[str, Tensor], tokens: Tensor, at: Tensor) -> Tensor:
    """Predict the next token at chosen positions.

    Args:
        state: The weights; their shapes say all there is to know of the model.
        tokens: Shape ``(batch, length)``, int64; padding only at the end.
        at: Shape ``(batch, length)``, bool: where a prediction is wanted.

    Returns:
        Shape ``(at.sum(), vocabulary)``, float32, in row-major order of ``at``.
    """
    turn = _rotation(tokens.shape[1])
    flow = F.embedding(tokens, state[EMBED])
    for layer in range(n_layers(state)):
        block = f"model.layers.{layer}."
        flow = flow + _attention(state, block, flow, turn)
        flow = flow + _feed_forward(state, block, flow)
    flow = _norm(flow, state["model.norm.weight"])
    return F.linear(flow[at], state[HEAD])


def _norm(flow: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(flow, weight.shape, weight, NORM_EPS)


def _rotation(length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, each of shape ``(length, HEAD_DIM)``."""
    pairs = torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM
    angles = torch.outer(torch.arange(length).float(), ROPE_THETA**-pairs)
    both = torch.cat([angles, angles], dim=-1)
    return both.cos(), both.sin()


def _rotate(heads: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    cos, sin = turn
    return heads * cos + torch.cat([-second, first], dim=-1) * sin


def _attention(
    state: Mapping[str, Tensor], block: str, flow: Tensor, turn: tuple[Tensor, Tensor]
) -> Tensor:
    batch, length, _ = flow.shape
    normed = _norm(flow, state[block + "input_layernorm.weight"])

    def heads(kind: str) -> Tensor:
        out = F.linear(normed, state[f"{block}self_attn.{kind}_proj.weight"])
        return out.view(batch, length, -1, HEAD_DIM).transpose(1, 2)

    query, key = _rotate(heads("q"), turn), _rotate(heads("k"), turn)
    value = heads("v")
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key = key.repeat_interleave(shared, dim=1)
        value = value.repeat_interleave(shared, dim=1)
    mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
    joined = mixed.transpose(1, 2).reshape(batch, length, -1)
    return F.linear(joined, state[block + "self_attn.o_proj.weight"])


def _feed_forward(state: Mapping[str, Tensor], block: str, flow: Tensor) -> Tensor:
    normed = _norm(flow, state[block + "post_attention_layernorm.weight"])
    gate = F.silu(F.linear(normed, state[block + "mlp.gate_proj.weight"]))
    wide = gate * F.linear(normed, state[block + "mlp.up_proj.weight"])
    return F.linear(wide, state[block + "mlp.down_proj.weight"])
