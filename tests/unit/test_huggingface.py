"""Reading config.json: every family, every kind of bad input, formats of checkpoints, names."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from perfmodel.errors import ModelConfigError, UnknownNameError
from perfmodel.layers.attention import GroupedQueryAttention
from perfmodel.layers.base import Layer, Shard
from perfmodel.layers.linear_attention import LinearAttention
from perfmodel.layers.moe import MixtureOfExperts
from perfmodel.layers.precision import Precision
from perfmodel.models.catalog import list_models, load_model
from perfmodel.models.huggingface import FAMILIES, model_from_config, read_config
from perfmodel.models.spec import ModelSpec

SMALL: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
}
SMALL_MOE = SMALL | {
    "model_type": "qwen3_moe",
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 32,
    "head_dim": 16,
}


def read(**changes: Any) -> ModelSpec:
    values = {key: value for key, value in (SMALL | changes).items() if value != "absent"}
    return model_from_config(values, "config.json")


def parts(model: ModelSpec, kind: type[Layer]) -> list[Layer]:
    return [part for block, _ in model.blocks for part in block.parts if isinstance(part, kind)]


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": "absent"}, ["hidden_size", "missing", "add it"]),
        ({"num_hidden_layers": "absent"}, ["num_hidden_layers", "missing"]),
        ({"vocab_size": None}, ["vocab_size", "missing"]),
        ({"hidden_size": 0}, ["hidden_size", "is 0", "at least 1"]),
        ({"hidden_size": -64}, ["hidden_size", "is -64", "at least 1"]),
        ({"num_hidden_layers": "four"}, ["num_hidden_layers", "'four'", "whole number"]),
        ({"num_hidden_layers": 3.5}, ["num_hidden_layers", "3.5", "whole number"]),
        ({"intermediate_size": True}, ["intermediate_size", "True", "whole number"]),
        ({"num_key_value_heads": 3}, ["num_key_value_heads", "3", "divide", "8"]),
        ({"num_attention_heads": 7, "num_key_value_heads": 7}, ["head_dim", "7", "hidden_size"]),
        ({"tie_word_embeddings": "yes"}, ["tie_word_embeddings", "true or false"]),
        ({"layer_types": ["full_attention"]}, ["layer_types", "4 entries"]),
        ({"layer_types": ["odd"] * 4}, ["layer_types", "odd", "known are"]),
        ({"layer_types": ["sliding_attention"] * 4}, ["sliding_window", "missing"]),
        ({"quantization_config": "fp8"}, ["quantization_config", "object"]),
        ({"quantization_config": {"quant_method": "magic"}}, ["quantization_config", "magic", "--precision"]),
        ({"text_config": "llama"}, ["text_config", "object"]),
    ],
)
def test_bad_fields(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ModelConfigError) as error:
        read(**changes)
    message = one_line(error)
    assert message.startswith("config.json: ")
    for word in words:
        assert word in message


def test_too_many_experts_per_token() -> None:
    with pytest.raises(ModelConfigError, match=r"num_experts_per_tok.*17.*16"):
        model_from_config(SMALL_MOE | {"num_experts_per_tok": 17}, "config.json")


def test_unknown_architecture_names_the_strange_fields() -> None:
    strange = {"architectures": ["FooForCausalLM"], "model_type": "fooo", "foo_rank": 3, "foo_mode": "x"}
    with pytest.raises(ModelConfigError) as error:
        read(**strange)
    message = one_line(error)
    for word in ("FooForCausalLM", "foo_mode, foo_rank", "set model_type"):
        assert word in message
    assert "hidden_size" not in message


def test_unknown_architecture_suggests_the_nearest() -> None:
    with pytest.raises(ModelConfigError, match="did you mean 'qwen3_moe'"):
        read(model_type="qwen3_mo")


def test_no_architecture_at_all() -> None:
    with pytest.raises(ModelConfigError, match=r"model_type.*missing"):
        model_from_config({"name": "x"}, "config.json")


def test_field_that_no_reader_used_is_noted() -> None:
    assert any("router_swirl" in note for note in read(router_swirl=3).notes)
    assert read(rope_theta=1e6, attention_dropout=0.0, eos_token_id=2).notes == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["empty", "download"]),
        (json.dumps(SMALL)[:90], ["not JSON", "truncated", "line 1"]),
        ("hidden_size: 64", ["not JSON"]),
        ("[1, 2]", ["list", "object"]),
    ],
)
def test_files_that_are_no_description(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "config.json"
    file.write_text(text)
    with pytest.raises(ModelConfigError) as error:
        read_config(file)
    message = one_line(error)
    assert message.startswith(str(file))
    for word in words:
        assert word in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ModelConfigError, match="cannot be read"):
        read_config(tmp_path / "absent.json")
    binary = tmp_path / "config.json"
    binary.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ModelConfigError, match="UTF-8"):
        read_config(binary)


def test_a_directory_holds_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    model = load_model(tmp_path)
    assert (model.layers, model.hidden, model.max_context) == (4, 64, 4096)
    # 1000 x 64 twice, per layer 64 x (64 + 32) + 64 x 64 + 3 x 64 x 128 and two norms, and a last norm
    assert model.parameters() == 2 * 64_000 + 4 * (64 * 96 + 4096 + 24_576 + 128) + 64


def test_a_publishers_own_format_file_counts(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    (tmp_path / "hf_quant_config.json").write_text(
        json.dumps(
            {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
        )
    )
    weights = load_model(tmp_path).weights
    assert (weights.linear, weights.kv, weights.head) == ("nvfp4", "fp8", "bf16")


def test_what_a_family_leaves_unsaid() -> None:
    said = {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34, "model_type": "gemma3_text"}
    nested = {"model_type": "gemma3", "text_config": said | {"sliding_window": 1024}, "vision_config": {"depth": 27}}
    model = model_from_config(nested, "config.json")
    assert model.parameters() == load_model("google/gemma-3-4b-it").parameters()
    assert model.blocks == load_model("google/gemma-3-4b-it").blocks


def test_experts_and_heads_in_the_fields_of_step() -> None:
    config = SMALL | {
        "model_type": "step3p5",
        "num_attention_groups": 2,
        "layer_types": ["full_attention", "sliding_attention"] * 3,  # two more than there are layers
        "sliding_window": 8,
        "attention_other_setting": {"num_attention_heads": 12, "head_dim": 8},
        "head_dim": 8,
        "moe_num_experts": 4,
        "moe_top_k": 2,
        "moe_intermediate_size": 16,
        "moe_layers_enum": "1,2,3",
    }
    model = model_from_config({k: v for k, v in config.items() if k != "num_key_value_heads"}, "config.json")
    assert [block.name for block, _ in model.blocks] == ["dense", "moe, sliding", "moe"]
    near = model.blocks[1][0].parts[1]
    assert isinstance(near, GroupedQueryAttention)
    assert (near.heads, near.kv_heads, near.window) == (12, 2, 8)


def test_tied_tables_are_stored_once() -> None:
    untied, tied = read(), read(tie_word_embeddings=True)
    assert untied.parameters() - tied.parameters() == 64_000
    assert untied.active_parameters() == tied.active_parameters()
    assert tied.active_parameters(embedding=True) == tied.active_parameters()
    assert untied.active_parameters(embedding=True) == untied.active_parameters() + 64_000
    apart = tied.head_bytes(Shard(), Precision(), separate=True) - tied.head_bytes(Shard(), Precision())
    assert apart == 2 * 64_000  # a last pipeline stage of its own needs its own copy


def test_windows_by_list_pattern_and_rule() -> None:
    def windows(model: ModelSpec) -> list[int]:
        blocks = [block for block, _ in model.blocks]
        found = []
        for index in model.layout:
            mixer = blocks[index].parts[1]
            assert isinstance(mixer, GroupedQueryAttention)
            found.append(mixer.window)
        return found

    assert windows(read(layer_types=["sliding_attention", "full_attention"] * 2, sliding_window=9)) == [9, 0, 9, 0]
    assert windows(read(model_type="gemma3_text", sliding_window=9, sliding_window_pattern=2)) == [9, 0, 9, 0]
    assert windows(read(model_type="gemma2", sliding_window=9)) == [9, 0, 9, 0]
    assert windows(read(model_type="mistral", sliding_window=9)) == [9] * 4
    assert windows(read(model_type="mistral", sliding_window=None)) == [0] * 4
    assert windows(read(model_type="qwen2", sliding_window=9, max_window_layers=3)) == [0, 0, 0, 9]
    assert windows(read(model_type="qwen2", sliding_window=9, max_window_layers=3, use_sliding_window=False)) == [0] * 4


def test_which_layers_have_experts() -> None:
    def pattern(**changes: Any) -> list[bool]:
        model = model_from_config(SMALL_MOE | changes, "config.json")
        moe = ["experts" in {t.name for t in block.tensors()} for block, _ in model.blocks]
        return [moe[index] for index in model.layout]

    assert pattern() == [True] * 4
    assert pattern(first_k_dense_replace=1) == [False, True, True, True]
    assert pattern(decoder_sparse_step=2) == [False, True, False, True]
    assert pattern(mlp_only_layers=[2]) == [True, True, False, True]
    assert pattern(moe_layer_freq=[0, 1, 1, 0]) == [False, True, True, False]


def test_shared_experts_in_every_spelling() -> None:
    for fields, width in (
        ({"shared_expert_intermediate_size": 48}, 48),
        ({"n_shared_experts": 2}, 64),
        ({"share_expert_dim": 40, "n_shared_experts": 1}, 40),
        ({"n_shared_experts": None}, 0),
    ):
        (moe,) = parts(model_from_config(SMALL_MOE | fields, "config.json"), MixtureOfExperts)
        assert isinstance(moe, MixtureOfExperts)
        assert moe.shared_intermediate == width


def test_prediction_blocks_stand_apart() -> None:
    plain = model_from_config(SMALL_MOE, "config.json")
    more = model_from_config(SMALL_MOE | {"num_nextn_predict_layers": 2}, "config.json")
    assert plain.parameters() == more.parameters() < more.parameters(mtp=True)
    assert sum(count for _, count in more.mtp) == 2


def test_nested_language_model_with_outer_formats() -> None:
    outer = {"model_type": "seer", "vision_config": {"depth": 3}, "quantization_config": {"quant_method": "fp8"}}
    model = model_from_config(outer | {"text_config": SMALL}, "config.json")
    assert model.weights.linear == "fp8"
    assert any("vision encoder" in note for note in model.notes)


def test_mamba_pattern_errors_name_letters_and_length() -> None:
    mamba = SMALL | {
        "model_type": "nemotron_h", "mamba_num_heads": 4, "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8
    }  # fmt: skip
    model = model_from_config(mamba | {"hybrid_override_pattern": "M-M*"}, "config.json")
    assert [count for _, count in model.blocks] == [2, 1, 1]
    assert len(parts(model, LinearAttention)) == 1
    with pytest.raises(ModelConfigError, match=r"'Q'.*known are M"):
        model_from_config(mamba | {"hybrid_override_pattern": "MQM*"}, "config.json")
    with pytest.raises(ModelConfigError, match=r"3 letters.*4"):
        model_from_config(mamba | {"hybrid_override_pattern": "MM*"}, "config.json")


GROUP = {"weights": {"num_bits": 4, "type": "int"}}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        (None, Precision()),
        (FP8, Precision.uniform("fp8_block")),
        ({"quant_method": "fp8"}, Precision.uniform("fp8")),
        ({"quant_method": "fbgemm_fp8"}, Precision.uniform("fp8")),
        (FP8 | {"modules_to_not_convert": ["gate", "lm_head"]}, Precision.uniform("fp8_block")),
        # A module left out in one layer is an exception, in most layers the rule.
        (FP8 | {"modules_to_not_convert": ["model.layers.3.self_attn.o_proj"]}, Precision.uniform("fp8_block")),
        (
            FP8 | {"modules_to_not_convert": [f"model.layers.{i}.self_attn.o_proj" for i in range(3)]},
            Precision(linear="fp8_block", experts="fp8_block"),
        ),
        ({"quant_method": "mxfp4"}, Precision(experts="w4a16_mxfp4")),
        ({"quant_method": "gptq", "bits": 4}, Precision.uniform("int4_wo")),
        ({"quant_method": "gptq", "bits": 8}, Precision.uniform("int8_wo")),
        ({"quant_method": "awq", "bits": 4}, Precision.uniform("int4_wo")),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, Precision.uniform("nvfp4")),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, Precision.uniform("fp8")),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": GROUP}}, Precision.uniform("int4_wo")),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": GROUP},
                "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"],
            },
            Precision(experts="int4_wo"),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"g": {"weights": {"num_bits": 4, "type": "float"}, "input_activations": {}}},
                "kv_cache_scheme": {"num_bits": 8, "type": "float"},
            },
            Precision.uniform("nvfp4", kv="fp8"),
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "g": {"weights": {"num_bits": 8, "type": "int"}, "input_activations": {"num_bits": 8}}
                },
            },
            Precision.uniform("sq"),
        ),
    ],
)
def test_checkpoint_formats(quantization: dict[str, Any] | None, expected: Precision) -> None:
    assert read(quantization_config=quantization).weights == expected


def test_every_preset_loads_and_fits_its_own_name() -> None:
    for name in list_models():
        model = load_model(name)
        assert model.id == name
        assert model.source
        assert model.max_context > 0
        assert not any("not taken into account" in note for note in model.notes)
        for alias in model.aliases:
            assert load_model(alias).parameters() == model.parameters(), alias


@pytest.mark.parametrize(
    ("name", "found", "linear"),
    [
        ("llama-3.1-70b", "meta-llama/Llama-3.1-70B-Instruct", "bf16"),
        ("meta-llama/Meta-Llama-3.1-70B", "meta-llama/Llama-3.1-70B-Instruct", "bf16"),
        ("neuralmagic/Meta-Llama-3.1-70B-Instruct-FP8", "meta-llama/Llama-3.1-70B-Instruct", "fp8"),
        ("Qwen/Qwen3-32B-FP8", "Qwen/Qwen3-32B", "fp8_block"),
        ("qwen3-235b", "Qwen/Qwen3-235B-A22B", "bf16"),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", "Qwen/Qwen3-235B-A22B-Instruct-2507", "fp8_block"),
        ("deepseek-v3", "deepseek-ai/DeepSeek-V3", "fp8_block"),
        ("deepseek-ai/DeepSeek-V3.1-NVFP4", "deepseek-ai/DeepSeek-V3.1", "nvfp4"),
        ("nvidia/DeepSeek-R1-0528-FP4-v2", "deepseek-ai/DeepSeek-R1", "nvfp4"),
        ("mixtral-8x7b", "mistralai/Mixtral-8x7B-v0.1", "bf16"),
        ("GPT-OSS-120B", "openai/gpt-oss-120b", "bf16"),
        ("Qwen/Qwen2.5-72B-Instruct-AWQ", "Qwen/Qwen2.5-72B", "int4_wo"),
        ("gpt-3", "openai/gpt-3-175b", "bf16"),
    ],
)
def test_names_and_variants(name: str, found: str, linear: str) -> None:
    model = load_model(name)
    assert (model.id, model.weights.linear) == (found, linear)


@pytest.mark.parametrize(
    ("name", "near"),
    [("llama-3.1-71b", "llama-3.1-70b"), ("meta-llama/Lama-3.1-70B-Instruct", "meta-llama/Llama-3.1-70B-Instruct")],
)
def test_near_misses_are_suggested(name: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        load_model(name)
    message = one_line(error)
    assert repr(near) in message
    assert "perfmodel model list" in message


def test_a_missing_path_is_said_to_be_missing() -> None:
    with pytest.raises(ModelConfigError, match="cannot be read"):
        load_model("nowhere/config.json")


def test_every_family_has_a_reader_that_complains_politely() -> None:
    for family in FAMILIES:
        with pytest.raises(ModelConfigError, match="is missing"):
            model_from_config({"model_type": family}, "config.json")


def test_presets_equal_the_published_descriptions(cases_dir: Path) -> None:
    files = sorted((cases_dir / "model_configs").glob("*.json"))
    assert files
    for file in files:
        model_id = file.stem.replace("--", "/")
        published, preset = read_config(file), load_model(model_id)
        same = {"id": "", "source": "", "aliases": (), "notes": (), "family": "", "weights": preset.weights}
        assert replace(published, **same) == replace(preset, **same), model_id
        if not model_id.endswith("-NVFP4"):  # its formats stand in a file beside config.json
            assert published.weights == load_model(model_id).weights, model_id


def test_every_model_of_the_case_files_has_a_preset(cases_dir: Path) -> None:
    import csv

    for file in [*(cases_dir / "serving").glob("*.csv"), *(cases_dir / "training").glob("*.csv")]:
        with file.open(newline="") as stream:
            for name in {row["model"] for row in csv.DictReader(stream)} - {""}:
                assert load_model(name).id == name
