"""Tiny models of every architecture of transformers, made by its own classes.

Their usual configurations are made small by the names of their keys; what cannot be
built from that alone is built with the few further words below, or is told as such.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

N_LAYERS = 4
_MOST = 30_000_000
"""Entries of a model; a larger one was not made small enough."""

SIZES: Mapping[int, str] = {
    N_LAYERS: "num_hidden_layers n_layer n_layers num_layers num_attention_heads "
    "n_head n_heads num_heads num_experts num_local_experts n_routed_experts "
    "moe_num_experts linear_num_value_heads linear_conv_kernel_dim time_step_rank "
    "mamba_dt_rank index_n_heads laurel_rank swa_num_attention_heads adapter_rank "
    "encoder_attention_heads decoder_attention_heads mm_tokens_per_image layers "
    "num_query_tokens vision_soft_tokens_per_image attention_heads num_blocks",
    1: "n_shared_experts first_k_dense_replace n_group topk_group mamba_n_groups "
    "num_memory_blocks attn_layer_offset expert_layer_offset moe_num_shared_experts "
    "moe_layer_start_index num_shared_experts num_mem_blocks temporal_patch_size "
    "max_num_tiles",
    2: "num_key_value_heads num_kv_heads n_head_kv num_experts_per_tok encoder_layers "
    "decoder_layers mamba_expand linear_num_key_heads full_attention_interval "
    "attn_layer_period expert_layer_period moe_k num_kv_shared_layers altup_num_inputs "
    "depth zero_expert_num moe_topk swa_num_key_value_heads max_window_layers "
    "spatial_merge_size num_global_layers num_encoder_layers num_decoder_layers",
    3: "num_channels conv_L_cache",
    8: "head_dim qk_rope_head_dim qk_nope_head_dim v_head_dim d_kv mamba_d_state "
    "mamba_n_heads mamba_d_head mamba_chunk_size chunk_size state_size "
    "linear_key_head_dim linear_value_head_dim index_head_dim head_width "
    "ssm_state_size mamba_num_heads mamba_head_dim sliding_window "
    "hidden_size_per_layer_input global_head_dim rotary_dim patch_size dim_head "
    "swa_head_dim swa_v_head_dim kv_channels",
    16: "moe_intermediate_size q_lora_rank kv_lora_rank "
    "shared_expert_intermediate_size index_topk expert_ffn_hidden_size "
    "shared_expert_size moe_shared_expert_intermediate_size dim_model_base "
    "attention_window_size num_position_embeddings",
    32: "hidden_size n_embd d_model attention_hidden_size embedding_size "
    "word_embed_proj_dim emb_dim lru_width block_size block_dim image_size embed_dim "
    "projection_dim out_hidden_size emb_size dim_model text_hidden_size "
    "vision_hidden_size cross_hidden_size qformer_hidden_size vision_output_dim "
    "image_hidden_size",
    48: "intermediate_size n_inner ffn_dim d_ff ffn_hidden_size encoder_ffn_dim "
    "decoder_ffn_dim dff block_ff_dim intermediate_size_mlp shared_intermediate_size "
    "mlp_hidden_size dim_ff dense_intermediate_size",
    64: "mamba_d_ssm original_max_position_embeddings",
    96: "vocab_size vocab_size_per_layer_input",
    128: "max_position_embeddings n_positions n_ctx max_seq_len",
}
_SMALL = {key: size for size, keys in SIZES.items() for key in keys.split()} | {
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_index": 0,
    "unk_index": 3,
    **dict.fromkeys(("image_token_id", "image_token_index"), 90),
    **dict.fromkeys(("video_token_id", "video_token_index"), 91),
    **dict.fromkeys(("vision_start_token_id", "image_start_token_id"), 92),
    **dict.fromkeys(("vision_end_token_id", "image_end_token_id"), 93),
    "boi_token_index": 92,
    "eoi_token_index": 93,
    "audio_token_id": 94,
    "vision_feature_layer": -1,
}
_KEPT = ("id2label", "label2id", "task_specific_params", "rope_parameters")
_LISTS = ("layer", "type", "pattern", "block")
_SLIDING, _FULL = "sliding_attention", "full_attention"
_ROPE = {"rope_type": "default", "rope_theta": 1e4}
_BLOCKS = ("attn_config", "ffn_config", "rope_parameters")
"""Taken as they are given."""
_NONE = object()
"""In place of a value: the key is left out."""


def _with_mrope(*section: int, vision: Mapping[str, Any]) -> dict[str, Any]:
    rope = {**_ROPE, "mrope_section": list(section)}
    return {"text_config": {"rope_parameters": rope}, "vision_config": dict(vision)}


_GEMMA3N = {
    "intermediate_size": 48,
    "activation_sparsity_pattern": [0.0] * N_LAYERS,
    "layer_types": [_SLIDING, _FULL] * 2,
    "num_kv_shared_layers": 0,
}
_GEMMA4 = {
    "per_layer_config": _NONE,
    "layer_types": [_SLIDING, _SLIDING, _SLIDING, _FULL],
    "num_kv_shared_layers": 0,
}
_QWEN4 = {
    "layer_types": [_FULL] * N_LAYERS,
    "token_budget": 16,
    "compress_ratio": 4,
}
_OTHER: Mapping[str, Mapping[str, Any]] = {
    **{
        key: {"num_key_value_heads": N_LAYERS}
        for key in (
            "axk1",
            "deepseek_v3",
            "deepseek_v32",
            "glm4_moe_lite",
            "glm_moe_dsa",
            "minicpm3",
            "youtu",
        )
    },
    "axk2": {"num_key_value_heads": N_LAYERS, "qk_head_dim": 16},
    "bamba": {"attn_layer_indices": [1]},
    "cohere_compass_text": {
        "layer_types": [_SLIDING, _SLIDING, _SLIDING, _FULL],
        "rope_parameters": {_SLIDING: _ROPE, _FULL: _ROPE},
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_key_value_heads": N_LAYERS, "qk_head_dim": 16}
    | {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2}
    | {"moe_intermediate_size": 16, "first_k_dense_replace": 1},
    "gemma3n": {"text_config": _GEMMA3N},
    "gemma3n_text": _GEMMA3N,
    **dict.fromkeys(("gemma4_text", "gemma4_unified_text"), _GEMMA4),
    **{key: {"text_config": _GEMMA4} for key in ("gemma4", "gemma4_unified")},
    **{
        key: {"head_dim": 8}
        for key in ("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral")
    },
    **{key: {"layer_types": ["conv", _FULL] * 2} for key in ("lfm2", "lfm2_moe")},
    **{
        key: {"text_config": {"rope_parameters": {**_ROPE, "mrope_section": section}}}
        for key, section in {
            "glm46v": [1, 1, 2],
            "glm4v": [1, 1, 2],
            "glm4v_moe": [1, 1, 0],
            "glm_ocr": [1, 1, 2],
            "glmga": [1, 1, 2],
            "paddleocr_vl": [1, 1, 2],
            "qwen2_5_omni_thinker": [1, 1, 2],
        }.items()
    },
    "granitemoehybrid": {"layer_types": ["mamba", "attention"] * 2},
    "kimi_k25": {"text_config": {"num_key_value_heads": N_LAYERS}},
    "kimi_linear": {"num_key_value_heads": N_LAYERS, "qk_head_dim": 16}
    | {"linear_head_dim": 8, "linear_num_heads": 4, "num_experts_per_token": 2},
    "longcat_flash": {"num_key_value_heads": N_LAYERS, "qk_head_dim": 16},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "mistral4": {"num_key_value_heads": N_LAYERS, "qk_head_dim": 16}
    | {
        "rope_parameters": _ROPE
        | {"llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 64}
    },
    "nemotron": {"num_key_value_heads": 2, "head_dim": 8},
    "qwen2_vl": _with_mrope(1, 1, 2, vision={"embed_dim": 32, "hidden_size": 32}),
    "qwen2_5_vl": _with_mrope(1, 1, 2, vision={"fullatt_block_indexes": [1]}),
    "qwen3_vl": _with_mrope(2, 1, 1, vision={"deepstack_visual_indexes": [0]}),
    "qwen3_vl_moe": _with_mrope(2, 1, 1, vision={"deepstack_visual_indexes": [0]}),
    "qwen4_exp_text": _QWEN4,
    "qwen4_exp": {"text_config": _QWEN4},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "roc_bert": {"shape_vocab_size": 32, "shape_embed_dim": 16}
    | {"pronunciation_vocab_size": 32, "pronunciation_embed_dim": 16},
    "step3p7": {"text_config": {"sliding_window": 8}},
    "xlnet": {"d_head": 8},
    "xlstm": {"embedding_dim": 32},
    "xmod": {"default_language": "en_XX"},
    "zamba2": {
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "mamba_headdim": 8,
    }
    | {"layers_block_type": ["mamba", "hybrid"] * 2, "hybrid_layer_ids": [1, 3]},
    "zaya": {"num_experts_per_tok": 1},
}
"""What a family needs besides: ``model_type`` to keys and values."""


class NotBuiltError(Exception):
    """An architecture that cannot be built tiny here; the message says why."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A task that transformers has classes for.

    Attributes:
        name: As the table calls it.
        loader: Name of the class that finds a configuration's own.
        mapping: Name of the table of its architectures.
    """

    name: str
    loader: str
    mapping: str

    @property
    def families(self) -> tuple[str, ...]:
        """``model_type`` of every architecture."""
        from transformers.models.auto import modeling_auto

        return tuple(getattr(modeling_auto, self.mapping))

    def auto(self) -> Any:
        """Return the class that builds and loads."""
        import transformers

        return getattr(transformers, self.loader)


CAUSAL = Kind("causal", "AutoModelForCausalLM", "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES")
IMAGE_TEXT = Kind(
    "image-text",
    "AutoModelForImageTextToText",
    "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
)
CLASSIFIER = Kind(
    "classification",
    "AutoModelForSequenceClassification",
    "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
)
ENCODER_DECODER = Kind(
    "encoder-decoder",
    "AutoModelForSeq2SeqLM",
    "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
)
KINDS = {kind.name: kind for kind in (CAUSAL, IMAGE_TEXT, ENCODER_DECODER, CLASSIFIER)}


def tiny_config(family: str, **changes: Any) -> Any:
    """Return the usual configuration of a family, made small.

    Raises:
        NotBuiltError: Its class does not take it.
    """
    from transformers import CONFIG_MAPPING

    try:
        cls = CONFIG_MAPPING[family]
        data = _shrunk(cls().to_dict())
        for key in ("architectures", "transformers_version", "_name_or_path"):
            data.pop(key, None)
        data = _changed(data, _OTHER.get(family, {}))
        return cls.from_dict(_changed(data, changes))
    except Exception as error:
        raise NotBuiltError(_said(error)) from error


def build(
    folder: Path, kind: Kind, family: str, dtype: str = "float32", **changes: Any
) -> None:
    """Save a base and two models near it, ``a`` and ``b``, as transformers does.

    Raises:
        NotBuiltError: The architecture cannot be built.
    """
    config = tiny_config(family, **changes)
    if kind is CAUSAL and getattr(config, "is_decoder", None) is False:
        config.is_decoder = True
    try:
        model = _model(kind, config)
        _draw(model, 1)
        start = {n: w.detach().clone() for n, w in model.named_parameters()}
        for seed, name in enumerate(("base", "a", "b"), 1):
            if seed > 1:
                _draw(model, seed, start)
            saved = model if dtype == "float32" else copy.deepcopy(model)
            saved.to(getattr(torch, dtype)).save_pretrained(folder / name)
    except NotBuiltError:
        raise
    except Exception as error:
        raise NotBuiltError(_said(error)) from error


def _model(kind: Kind, config: Any) -> Any:
    with torch.device("meta"):
        n = sum(w.numel() for w in kind.auto().from_config(config).parameters())
    if n > _MOST:
        raise NotBuiltError(f"it has {n} entries, however small its sizes")
    torch.manual_seed(0)
    return kind.auto().from_config(copy.deepcopy(config)).eval().float()


def _draw(
    model: Any, seed: int, near: Mapping[str, torch.Tensor] | None = None
) -> None:
    random = torch.Generator().manual_seed(seed)
    done: set[int] = set()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.data_ptr() in done or not weights.is_floating_point():
                continue
            done.add(weights.data_ptr())
            noise = torch.randn(weights.shape, generator=random)
            if near is not None:
                weights.copy_(near[name] + 0.05 * noise)
            elif weights.ndim < 2:
                weights.add_(0.1 * noise)
            else:
                weights.copy_(0.5 * noise * max(weights.shape[-1], 1) ** -0.5)


def _shrunk(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _small(key, value) for key, value in data.items()}


def _small(key: str, value: Any) -> Any:
    if isinstance(value, dict) and key not in _KEPT:
        return _shrunk(value)
    if key in _SMALL and type(value) in (int, float):
        return _SMALL[key]
    is_listed = isinstance(value, list) and any(word in key for word in _LISTS)
    if is_listed and len(value) > N_LAYERS and _is_plain(value):
        kinds = list(dict.fromkeys(value))
        if len(kinds) == 1:
            return value[:N_LAYERS]
        return (kinds + [value[-1]] * N_LAYERS)[:N_LAYERS]
    return value


def _is_plain(values: list[Any]) -> bool:
    return all(isinstance(value, str | int) for value in values)


def _changed(data: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in changes.items():
        if value is _NONE:
            data.pop(key, None)
        elif (
            isinstance(value, Mapping)
            and key not in _BLOCKS
            and isinstance(data.get(key), dict)
        ):
            _changed(data[key], value)
        else:
            data[key] = value
    return data


def _said(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first[:160]}"
