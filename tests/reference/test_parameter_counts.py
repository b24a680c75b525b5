"""Total and active parameters against what the publishers print.

How a publisher counts is part of the number: `total` is one of
  all            every tensor of the language model, blocks that predict further tokens left out
  mtp            with those blocks
  mtp-tables     with those blocks, without embedding table and output projection
  block          one more decoder block than was released (a prediction block that was trained and not published)
  vision:<n>     with an encoder of n parameters, counted from its own description
`active` is one of
  head           what a token is multiplied with: the output projection counts, the embedding table does not
  tables         both count
  layers         neither counts
  -indexer       as `head`, the indexer of sparse attention left out
A total has to agree to 1 %. An active count has to agree to 1 % or, where two digits are printed, to read as printed
when it is rounded or cut to as many digits.
"""

from decimal import Decimal

import pytest

from perfmodel.models.catalog import load_model
from perfmodel.models.spec import ModelSpec

# model, total [1e9] and how it counts, active [1e9] and how it counts, source
TABLE = [
    ("meta-llama/Llama-3.1-8B-Instruct", "8.03", "all", None, "", "model card: 8B; safetensors 8.03B"),
    ("meta-llama/Llama-3.1-70B-Instruct", "70.6", "all", None, "", "model card: 70B; safetensors 70.6B"),
    ("meta-llama/Meta-Llama-3.1-405B", "406", "all", None, "", "model card: 405B; safetensors 406B"),
    ("meta-llama/Llama-2-70b-hf", "69.0", "all", None, "", "safetensors 69B"),
    ("meta-llama/Llama-2-7b-hf", "6.74", "all", None, "", "safetensors 6.74B"),
    ("meta-llama/Llama-2-13b-hf", "13.0", "all", None, "", "safetensors 13B"),
    ("huggyllama/llama-65b", "65.2", "all", None, "", "arXiv:2302.13971, table 2"),
    ("huggyllama/llama-30b", "32.5", "all", None, "", "arXiv:2302.13971, table 2"),
    ("meta-llama/Llama-3.2-1B", "1.23", "all", None, "", "model card"),
    ("meta-llama/Llama-3.2-3B", "3.21", "all", None, "", "model card"),
    # The encoder: 34 layers of width 1408 and 5632, its adapter and projector.
    ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "109", "vision:0.87", "17", "tables", "model card"),
    ("meta-llama/Llama-4-Maverick-17B-128E-Instruct", "400", "all", "17", "tables", "model card"),
    ("Qwen/Qwen2.5-7B", "7.61", "all", None, "", "model card"),
    ("Qwen/Qwen2.5-14B", "14.7", "all", None, "", "model card"),
    ("Qwen/Qwen2.5-32B", "32.5", "all", None, "", "model card"),
    ("Qwen/Qwen2.5-72B", "72.7", "all", None, "", "model card"),
    ("Qwen/Qwen3-0.6B", "0.6", "all", None, "", "model card"),
    ("Qwen/Qwen3-1.7B", "1.72", "all", None, "", "safetensors without the copy of the tied table"),
    ("Qwen/Qwen3-4B", "4.0", "all", None, "", "model card"),
    ("Qwen/Qwen3-8B", "8.2", "all", None, "", "model card"),
    ("Qwen/Qwen3-14B", "14.8", "all", None, "", "model card"),
    ("Qwen/Qwen3-32B", "32.8", "all", None, "", "model card"),
    ("Qwen/Qwen3-30B-A3B", "30.5", "all", "3.3", "tables", "model card"),
    ("Qwen/Qwen3-235B-A22B", "235", "all", "22", "tables", "model card"),
    ("Qwen/Qwen3-Coder-480B-A35B-Instruct", "480", "all", "35", "tables", "model card"),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", "80", "all", "3.9", "tables", "model card: 80B total, 3B activated (3.9B)"),
    ("Qwen/Qwen3.5-27B", "27", "all", None, "", "model card"),
    ("Qwen/Qwen3.5-397B-A17B", "397", "all", "17", "tables", "model card"),
    ("deepseek-ai/DeepSeek-V2", "236", "all", "21", "head", "arXiv:2405.04434, abstract"),
    ("deepseek-ai/DeepSeek-V2-Lite", "15.7", "all", "2.4", "head", "arXiv:2405.04434, appendix B"),
    ("deepseek-ai/DeepSeek-V3", "671", "all", "36.7", "head", "README_WEIGHTS.md of the model's repository"),
    ("deepseek-ai/DeepSeek-V3", "682.5", "mtp", "37", "head", "the same file: 671B and 11.5B in the prediction block"),
    ("deepseek-ai/DeepSeek-R1", "671", "all", "37", "head", "model card"),
    ("deepseek-ai/DeepSeek-V3.1", "671", "all", "37", "head", "model card"),
    ("deepseek-ai/DeepSeek-V3.2", "671", "all", "37", "head", "report: DeepSeek-V3.1 and an indexer"),
    ("deepseek-ai/DeepSeek-V4-Flash", "284", "all", "13", "head", "model card"),
    ("moonshotai/Kimi-K2-Instruct", "1040", "block", "32.6", "tables", "arXiv:2507.20534, table 2"),
    ("moonshotai/Kimi-K2.5", "1040", "block", "32", "head", "model card: 1T, 32B activated"),
    ("zai-org/GLM-4.5", "355", "mtp-tables", "32", "layers", "arXiv:2508.06471, table 1"),
    # The caption says as above; only without the prediction block does the number come out.
    ("zai-org/GLM-4.5-Air", "106", "all", "12", "layers", "arXiv:2508.06471, table 1"),
    ("zai-org/GLM-5", "744", "all", "40", "-indexer", "model card; safetensors 753.86B with prediction block"),
    ("zai-org/GLM-5", "753.86", "mtp", "40", "-indexer", "safetensors metadata"),
    ("openai/gpt-oss-120b", "116.83", "all", "5.13", "head", "arXiv:2508.10925, table 1"),
    ("openai/gpt-oss-20b", "20.91", "all", "3.61", "head", "arXiv:2508.10925, table 1"),
    ("mistralai/Mixtral-8x7B-v0.1", "46.7", "all", "12.9", "tables", "release post: 46.7B, 12.9B per token"),
    ("mistralai/Mixtral-8x22B-v0.1", "141", "all", "39", "tables", "model card"),
    ("mistralai/Mistral-7B-v0.1", "7.24", "all", None, "", "safetensors 7.24B"),
    ("mistralai/Mistral-Large-Instruct-2407", "123", "all", None, "", "model card"),
    ("mistralai/Mistral-Small-24B-Instruct-2501", "23.6", "all", None, "", "safetensors 23.6B"),
    ("MiniMaxAI/MiniMax-M2.5", "228.7", "all", "10", "head", "model card: 230B, 10B activated; safetensors 228.7B"),
    ("MiniMaxAI/MiniMax-Text-01", "456", "all", "45.9", "layers", "arXiv:2501.08313, abstract"),
    ("XiaomiMiMo/MiMo-V2-Flash", "309", "all", "15", "head", "model card"),
    ("stepfun-ai/Step-3.5-Flash", "196.81", "all", None, "", "model card"),
    ("stepfun-ai/Step-3.7-Flash", "196", "all", "11", "tables", "model card, language model"),
    ("google/gemma-4-26B-A4B", "25.2", "all", "3.8", "head", "model card"),
    ("google/gemma-2-9b", "9.24", "all", None, "", "safetensors 9.24B"),
    ("google/gemma-2-27b", "27.2", "all", None, "", "safetensors 27.2B"),
    ("google/gemma-3-27b-it", "27.0", "all", None, "", "safetensors 27.4B with the 0.42B encoder"),
    ("nvidia/Nemotron-H-56B-Base-8K", "56.3", "all", None, "", "arXiv:2504.03624"),
    (
        "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16",
        "31.6",
        "all",
        "3.2",
        "head",
        "report, table 1 (3.6B with embeddings)",
    ),
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "31.6", "all", "3.6", "tables", "report, table 1"),
    ("nvidia/Nemotron-4-340B-Base", "340", "all", None, "", "arXiv:2406.11704"),
    ("xai-org/grok-1", "314", "all", None, "", "release notes"),
    ("databricks/dbrx-base", "132", "all", "36", "head", "model card"),
    ("microsoft/phi-4", "14.7", "all", None, "", "safetensors 14.7B"),
    ("tiiuae/falcon-180B", "179", "all", None, "", "safetensors 179B"),
    ("bigscience/bloom", "176.2", "all", None, "", "arXiv:2211.05100, table 3: 176,247M"),
    ("facebook/opt-66b", "65.7", "all", None, "", "checkpoint: 65.7B"),
    ("openai/gpt-3-175b", "174.6", "all", None, "", "arXiv:2005.14165, appendix D: 174,600M"),
    ("megatron/gpt-174.6b", "174.6", "all", None, "", "arXiv:2104.04473, table 1"),
    ("megatron/gpt-529.6b", "529.6", "all", None, "", "arXiv:2104.04473, table 1"),
    ("megatron/gpt-1008b", "1008.0", "all", None, "", "arXiv:2104.04473, table 1"),
    ("megatron/gpt-7.5b", "7.5", "all", None, "", "arXiv:2104.04473, table 1"),
    ("megatron/gpt-39.1b", "39.1", "all", None, "", "arXiv:2104.04473, table 1"),
]


def _tables(model: ModelSpec) -> float:
    return sum(t.elements for part in (model.embedding, model.head) for t in part.tensors() if t.role != "norm")


def total(model: ModelSpec, counted: str) -> float:
    value = model.parameters(mtp=counted.startswith("mtp"))
    if counted == "mtp-tables":
        return value - _tables(model)
    if counted == "block":
        return value + model.blocks[model.layout[-1]][0].parameters()
    if counted.startswith("vision:"):
        return value + float(counted.removeprefix("vision:")) * 1e9
    return value


def active(model: ModelSpec, counted: str) -> float:
    value = model.active_parameters(embedding=counted == "tables")
    if counted == "layers":
        value -= sum(t.active for t in model.head.tensors() if t.role == "head")
    if counted == "-indexer":
        value -= sum(n * t.active for block, n in model.blocks for t in block.tensors() if "indexer" in t.name)
    return value


def reads_as(value: float, printed: str) -> bool:
    step = Decimal(1).scaleb(int(Decimal(printed).as_tuple().exponent))
    return -step / 2 <= Decimal(value) - Decimal(printed) < step


@pytest.mark.parametrize(("name", "printed", "counted"), [row[:3] for row in TABLE], ids=lambda v: str(v))
def test_total_parameters_agree_to_one_percent(name: str, printed: str, counted: str) -> None:
    value = total(load_model(name), counted) / 1e9
    assert value == pytest.approx(float(printed), rel=0.01)


@pytest.mark.parametrize(
    ("name", "printed", "counted"), [(r[0], r[3], r[4]) for r in TABLE if r[3]], ids=lambda v: str(v)
)
def test_active_parameters_agree(name: str, printed: str, counted: str) -> None:
    value = active(load_model(name), counted) / 1e9
    assert value == pytest.approx(float(printed), rel=0.01) or reads_as(value, printed)


def test_every_row_names_a_source() -> None:
    assert all(row[5] for row in TABLE)


def test_deepseek_v3_is_exact() -> None:
    # Counted tensor by tensor from the published shapes, score corrections included.
    model = load_model("deepseek-ai/DeepSeek-V3")
    assert model.parameters() == 671_026_419_200
    assert model.active_parameters(embedding=True) == 37_552_297_472


def test_seventy_billion_decode_reads_139_gigabytes() -> None:
    # 70.55e9 weights less the 1.05e9 of the embedding table, which a decode step only looks up, in 2 bytes each.
    model = load_model("meta-llama/Llama-3.1-70B-Instruct")
    assert 2 * model.active_parameters() / 1e9 == pytest.approx(139.0, abs=0.05)
