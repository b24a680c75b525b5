"""Whatever stands in one field of a description, reading it ends in a finite model or in a one-line complaint."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfmodel.errors import ModelConfigError
from perfmodel.models.huggingface import model_from_config
from perfmodel.models.spec import ModelSpec

COMMON = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 8, "vocab_size": 100, "model_type": "llama"}
MOE = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "intermediate_size": 32}
LATENT = {"q_lora_rank": 16, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
INDEXER = {"index_n_heads": 2, "index_head_dim": 8, "index_topk": 16}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 8,
}
MAMBA = {"mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8}
COMPRESSED = {"head_dim": 16, "q_lora_rank": 8, "o_lora_rank": 8, "o_groups": 2, "sliding_window": 4, "hc_mult": 2}
DESCRIPTIONS: list[dict[str, Any]] = [
    COMMON | {"intermediate_size": 128, "num_key_value_heads": 2, "tie_word_embeddings": True},
    COMMON | {"model_type": "gemma2", "intermediate_size": 128, "sliding_window": 8},
    COMMON | MOE | {"model_type": "qwen3_moe", "mlp_only_layers": [0], "decoder_sparse_step": 1},
    COMMON | MOE | {"model_type": "glm4_moe", "first_k_dense_replace": 1, "n_shared_experts": 1},
    COMMON | MOE | {"model_type": "llama4", "attention_chunk_size": 8, "interleave_moe_layer_step": 2},
    COMMON | MOE | LATENT | INDEXER | {"model_type": "deepseek_v32", "num_nextn_predict_layers": 1},
    COMMON | MOE | LINEAR | {"model_type": "qwen3_next", "shared_expert_intermediate_size": 16},
    COMMON | MOE | MAMBA | {"model_type": "nemotron_h", "hybrid_override_pattern": "M*E-"},
    COMMON | MOE | INDEXER | COMPRESSED | {"model_type": "deepseek_v4", "compress_ratios": [0, 4, 128, 4]},
    COMMON | {"model_type": "falcon", "new_decoder_architecture": True, "num_kv_heads": 2},
    COMMON | {"model_type": "gpt2", "max_position_embeddings": 128},
]
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-5, 20),
    st.sampled_from([10**7, 10**13, 10**30]),
    st.floats(),
    st.text(max_size=5),
)
values = st.one_of(scalars, st.lists(scalars, max_size=5), st.dictionaries(st.text(max_size=3), scalars, max_size=2))
EXTRA = ["quantization_config", "text_config", "layer_types", "sliding_window", "moe_layer_freq", "head_dim", "dtype"]


@pytest.mark.parametrize("description", DESCRIPTIONS, ids=lambda d: d["model_type"])
def test_the_untouched_description_is_a_model(description: dict[str, Any]) -> None:
    model = model_from_config(description, "config.json")
    assert model.parameters() >= model.active_parameters() > 0


def attempt(description: dict[str, Any]) -> tuple[ModelSpec | None, str]:
    try:
        return model_from_config(description, "config.json"), ""
    except ModelConfigError as error:
        return None, str(error)


@given(st.data())
def test_one_odd_field_never_ends_in_a_traceback(data: st.DataObject) -> None:
    description = data.draw(st.sampled_from(DESCRIPTIONS))
    field = data.draw(st.sampled_from([*description, *EXTRA]))
    changed = description | {field: data.draw(values)}
    model, message = attempt(changed)
    if model is None:
        assert "\n" not in message
        assert message.startswith("config.json: ")
    else:
        assert math.isfinite(model.parameters())
        assert model.parameters() > 0


@given(st.data())
def test_a_missing_field_is_named_or_has_a_default(data: st.DataObject) -> None:
    description = data.draw(st.sampled_from(DESCRIPTIONS))
    field = data.draw(st.sampled_from([key for key in description if key != "model_type"]))
    rest = {key: value for key, value in description.items() if key != field}
    model, message = attempt(rest)
    assert field in message or "missing" in message or (model is not None and model.parameters() > 0)
