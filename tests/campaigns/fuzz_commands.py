"""Fuzz campaign: commands, configurations, profiles and case files spoiled at random, and what a command must never do.

    python tests/campaigns/fuzz_commands.py --rounds 2000 --seed 1

Whatever it is given, a command ends with exit code 0, 1 or 2; with 1 or 2 it says why in one line on stderr. It never
ends in a traceback or a warning, never prints NaN as a number of a plan that it calls feasible, leaves no half-written
file. A case that breaks this is printed with its seed, so that `--seed N --rounds 1` runs it again.
"""

import argparse
import contextlib
import csv
import io
import json
import random
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import typer

from perfmodel.cli.main import app, main
from perfmodel.hardware.places import builtin_directory

Command = list[str]

MODELS = ("llama-3.1-8b", "llama-3.1-70b", "mixtral-8x7b", "deepseek-v3", "qwen3-32b", "gpt-oss-20b", "gpt3-175b")
SYSTEMS = ("hgx-h100", "hgx-a100", "gb200-nvl72", "mi300x-8", "tpu-v5p-pod", "cloudmatrix384", "l40s-8")
COUNTS = ("1", "2", "7", "8", "16", "64", "1k", "3", "0", "-1", "1.5", "", "nan", "1e9", "8x", "four", "１６")
LENGTHS = ("1", "128", "1k", "4Ki", "100k", "0", "-4", "1e400", "inf", "2.5", "k", "4 k", "99999999999999999999")
TIMES = ("50ms", "2s", "1us", "0s", "-1ms", "50", "1e-400s", "nan ms", "5 minutes", "ms", "10000h")
RATES = ("0", "1", "0.001", "1e6", "-3", "nan", "inf")
FORMATS = ("bf16", "fp8", "nvfp4", "int4", "mxfp4", "fp3", "", "BF16")
ENGINES = ("neutral", "trtllm", "vllm", "sglang", "vlm", "/nonexistent.toml", "")
VALUES: tuple[Any, ...] = (
    0,
    -1,
    1,
    2,
    3,
    7,
    1e30,
    0.5,
    "",
    "x",
    None,
    True,
    [],
    {},
    [1, 2],
    "4096",
    float("nan"),
    2**63,
    -(2**70),
)
CELLS = ("", "0", "-1", "nan", "inf", "1e30", "x", "1.5", "１２", " 8 ", "1,0", "None", "8" * 40, "\t", "é")


def pick(dice: random.Random, choices: tuple[Any, ...], usual: int = 4) -> Any:
    """Take one of the first few mostly, and any one sometimes."""
    return dice.choice(choices[:usual]) if dice.random() < 0.75 else dice.choice(choices)


def rank_serving(dice: random.Random, folder: Path) -> Command:
    """Options of a ranking, some of them nonsense."""
    words = ["rank", "serving", "--model", pick(dice, MODELS), "--system", pick(dice, SYSTEMS)]
    words += ["--gpus", pick(dice, COUNTS, 5), "--isl", pick(dice, LENGTHS), "--osl", pick(dice, LENGTHS)]
    options: tuple[tuple[str, tuple[str, ...]], ...] = (
        ("--ttft", TIMES),
        ("--tpot", TIMES),
        ("--rate", RATES),
        ("--precision", FORMATS),
        ("--kv", FORMATS),
        ("--engine", ENGINES),
        ("--prefix-hit", RATES),
        ("--draft-tokens", COUNTS),
        ("--concurrency", COUNTS),
        ("--tp", COUNTS),
        ("--pp", COUNTS),
        ("--ep", COUNTS),
        ("--top", COUNTS),
        ("--format", ("json", "csv", "table", "yaml")),
        ("--workers", ("separate", "both", "together", "")),
        ("--arrivals", ("poisson", "closed")),
        ("--objective", ("cost", "energy", "gpu")),
        ("--price", RATES),
        ("--prefill-price", RATES),
        ("--budget", RATES),
        ("--power", ("100kW", "1MW", "5", "0W", "nan W", "-1kW")),
        ("--prefill-system", SYSTEMS),
        ("--link", ("200Gbit/s", "nvlink", "0GB/s", "x")),
        ("--host-experts", RATES),
        ("--host-hit", RATES),
        ("--schedule", ("chunked", "layered", "x")),
        ("--what-if", ("memory_bandwidth=x2", "memory_capacity=192GB", "x=1", "memory_bandwidth=", "=x2", "peak=x0")),
    )
    for name, values in dice.sample(options, dice.randrange(0, 7)):
        words += [name, pick(dice, values, 2)]
    return words + output(dice, folder)


def rank_training(dice: random.Random, folder: Path) -> Command:
    """Options of a training ranking, some of them nonsense."""
    words = ["rank", "training", "--model", pick(dice, MODELS), "--system", pick(dice, SYSTEMS)]
    words += ["--gpus", pick(dice, COUNTS, 5), "--global-batch", pick(dice, COUNTS, 6), "--seq", pick(dice, LENGTHS)]
    options = (("--tokens", ("15T", "1e12", "x", "-1")), ("--format", ("json", "csv")), ("--top", COUNTS))
    for name, values in dice.sample(options, dice.randrange(0, 3)):
        words += [name, pick(dice, values, 2)]
    return words + output(dice, folder)


def explain(dice: random.Random, _folder: Path) -> Command:
    """A derivation of some plan."""
    words = ["explain", "serving", "--model", pick(dice, MODELS), "--system", pick(dice, SYSTEMS)]
    words += ["--isl", pick(dice, LENGTHS), "--osl", pick(dice, LENGTHS), "--concurrency", pick(dice, COUNTS, 5)]
    for name in dice.sample(("--tp", "--pp", "--dp", "--ep"), dice.randrange(0, 3)):
        words += [name, pick(dice, COUNTS, 5)]
    return words


def spoiled_config(dice: random.Random, folder: Path) -> Command:
    """A ranking of a model whose config.json was damaged."""
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": dice.choice(("llama", "qwen3", "mixtral", "deepseek_v3", "gpt_oss", "gemma3", "unknown")),
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "num_hidden_layers": 32,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": None,
        "rope_scaling": {"type": "linear", "factor": 2.0},
        "quantization_config": None,
    }
    for key in dice.sample(sorted(config), dice.randrange(1, 4)):
        if dice.random() < 0.4:
            del config[key]
        else:
            config[key] = dice.choice(VALUES)
    if dice.random() < 0.3:
        config[dice.choice(("kv_lora_rank", "n_routed_experts", "head_dim", "layer_types", "foo"))] = dice.choice(
            VALUES
        )
    path = folder / "config.json"
    text = json.dumps(config)
    path.write_text(text[: dice.randrange(1, len(text))] if dice.random() < 0.1 else text, encoding="utf-8")
    command = [
        "rank",
        "serving",
        "--model",
        str(path),
        "--system",
        "hgx-h100",
        "--gpus",
        "8",
        "--isl",
        "1k",
        "--osl",
        "128",
    ]
    return dice.choice((command, ["model", "show", str(path)]))


def spoiled_profile(dice: random.Random, folder: Path) -> Command:
    """A profile file with a line left out, doubled or changed."""
    kind = dice.choice(("devices", "systems", "engines"))
    source = dice.choice(sorted((builtin_directory() / kind).glob("*.toml")))
    lines = source.read_text(encoding="utf-8").splitlines()
    for _ in range(dice.randrange(1, 4)):
        i = dice.randrange(len(lines))
        action = dice.randrange(5)
        if action == 0:
            lines.pop(i)
        elif action == 1:
            lines.insert(i, lines[i])
        elif action == 2:
            lines[i] = lines[i].replace("=", "= -", 1)
        elif action == 3:
            old = dice.choice(("TB/s", "GiB", "us", "value", "source", "[", '"'))
            lines[i] = lines[i].replace(old, dice.choice(("", "Gb/s", "x")))
        else:
            lines[i] = lines[i][: dice.randrange(len(lines[i]) + 1)]
        if not lines:
            lines = [""]
    path = folder / source.name
    path.write_text("\n".join(lines), encoding="utf-8")
    if kind == "engines":
        words = ["--system", "hgx-h100", "--gpus", "8", "--isl", "1k", "--osl", "128", "--engine", str(path)]
        return ["rank", "serving", "--model", "llama-3.1-8b", *words]
    return ["hardware", dice.choice(("validate", "show")), str(path)]


CASES: dict[str, tuple[str, ...]] = {
    "operators": (
        "id,op,hardware,engine,version,kernel,dtype,m,n,k,batch,tokens,context,heads,kv_heads,head_dim,window,kv_dtype,"
        "qk_head_dim,v_head_dim,hidden,intermediate,experts,topk,tp,ep,routing,ranks,nbytes,mode,sms",
        "a,gemm,h100-sxm,trtllm,1.0,,bf16,128,4096,4096,,,,,,,,,,,,,,,,,,,,,",
        "b,decode_attention,h200-sxm,vllm,,,bf16,,,,8,1,2048,32,8,128,0,bf16,,,,,,,,,,,,,",
        "c,prefill_attention,b200-sxm,sglang,,,bf16,,,,1,1024,1024,32,8,128,0,bf16,,,,,,,,,,,,,",
        "d,moe,h100-sxm,trtllm,,,fp8,,,,,512,,,,,,,,,4096,1536,128,8,1,8,balanced,,,,",
        "e,all_reduce,h100-sxm,nccl,,,fp16,,,,,,,,,,,,,,,,,,,,,8,1048576,,",
    ),
    "serving": (
        "id,model,hardware,engine,precision,mode,isl,osl,tp,pp,dp,moe_tp,moe_ep,concurrency,engine_version",
        "a,Qwen/Qwen3-32B,h100-sxm,trtllm,fp8,agg,1024,1024,2,1,1,1,1,8,1.0",
        "b,deepseek-ai/DeepSeek-R1,b200-sxm,sglang,fp8,agg,1024,1024,8,1,1,1,8,16,0.5",
        "c,meta-llama/Llama-3.1-70B-Instruct,h100-sxm,vllm,fp8,agg,2048,256,4,1,1,,,32,0.9",
    ),
    "training": (
        "id,source,model,hidden,layers,dense_layers,heads,kv_heads,head_dim,ffn,vocab,gated,attention,experts,topk,expert_ffn,"
        "seq,hardware,gpus,gpus_per_node,tp,pp,vp,dp,ep,cp,micro_batch,global_batch,sequence_parallel,recompute,zero,"
        "precision,grad_overlap",
        "a,x,,4096,32,,32,32,128,16384,51200,0,mha,,,,2048,a100-sxm,8,8,8,1,1,1,1,1,1,8,0,full,0,fp16,0",
        "b,x,llama-3.1-8b,,,,,,,,,,,,,,4096,h100-sxm,16,8,2,2,1,4,1,1,1,64,1,none,1,bf16,1",
    ),
}


def spoiled_cases(dice: random.Random, folder: Path) -> Command:
    """A case file with some of its cells, columns or bytes changed."""
    kind = dice.choice(sorted(CASES))
    rows = [line.split(",") for line in CASES[kind]]
    for _ in range(dice.randrange(0, 5)):
        row = dice.randrange(1, len(rows))
        rows[row][dice.randrange(len(rows[row]))] = dice.choice(CELLS).replace(",", ".")
    if dice.random() < 0.3:
        column = dice.randrange(len(rows[0]))
        if dice.random() < 0.5:
            rows = [row[:column] + row[column + 1 :] for row in rows]
        else:
            rows[0][column] = dice.choice(("", "x", rows[0][0], "measured_s"))
    if dice.random() < 0.1:
        rows = rows[: dice.randrange(2)]
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    data = buffer.getvalue().encode()
    if dice.random() < 0.1:
        place = dice.randrange(len(data) + 1)
        data = data[:place] + dice.choice((b"\x00", b"\xff", b'"', b"\r")) + data[place:]
    path = folder / "cases.csv"
    path.write_bytes(data)
    return [dice.choice(("predict", "predict", "validate")), kind, str(path), *output(dice, folder)]


def output(dice: random.Random, folder: Path) -> Command:
    """Sometimes a file to write, sometimes one that cannot be."""
    return dice.choice(
        ([], [], [], ["-o", str(folder / "out.txt")], ["-o", str(folder / "no" / "out.txt")], ["-o", str(folder)])
    )


USUAL: dict[str, Command] = {
    "rank serving": ["--model", "llama-3.1-8b", "--system", "hgx-h100", "--gpus", "4", "--isl", "1k", "--osl", "128"],
    "rank training": [
        "--model",
        "llama-3.1-8b",
        "--system",
        "hgx-h100",
        "--gpus",
        "16",
        "--global-batch",
        "64",
        "--seq",
        "2Ki",
    ],
    "explain serving": ["--model", "mixtral-8x7b", "--system", "hgx-h100", "--isl", "1k", "--osl", "128", "--tp", "4"],
    "explain training": [
        "--model",
        "llama-3.1-8b",
        "--system",
        "hgx-a100",
        "--global-batch",
        "64",
        "--seq",
        "2Ki",
        "--tp",
        "4",
    ],
    "hardware list": [],
    "hardware show": ["hgx-h100"],
    "model list": [],
    "model show": ["qwen3-32b"],
}
"""What makes a command that takes options work."""

ANYTHING = (
    "1",
    "0",
    "2",
    "0.5",
    "-1",
    "8",
    "1k",
    "50ms",
    "3GB",
    "x",
    "",
    "nan",
    "inf",
    "1e9",
    "10%",
    "h200-sxm",
    "hgx-h200",
    "a,b",
)


@cache
def every_option() -> dict[str, list[tuple[str, bool]]]:
    """Every option of every command of `USUAL`, and whether it is a switch."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for name in USUAL:
        command: Any = typer.main.get_command(app)
        for word in name.split():
            command = command.commands[word]
        options = [p for p in command.params if p.param_type_name == "option"]
        found[name] = [
            (spelling, bool(p.is_flag))
            for p in options
            for spelling in (*p.opts, *p.secondary_opts)
            if spelling != "-o"
        ]
    return found


def any_option(dice: random.Random, folder: Path) -> Command:
    """A command that works with any of its options, at any value."""
    name = dice.choice(sorted(USUAL))
    words = [*name.split(), *USUAL[name]]
    options = every_option()[name]
    for option, switch in dice.sample(options, dice.randrange(0, min(4, len(options) + 1))):
        value = str(folder / "out.txt") if option == "--output" else dice.choice(ANYTHING)
        words += [option] if switch else [option, value]
    return words


KINDS: dict[str, Callable[[random.Random, Path], Command]] = {
    "rank serving": rank_serving,
    "rank training": rank_training,
    "explain": explain,
    "config.json": spoiled_config,
    "profile": spoiled_profile,
    "case file": spoiled_cases,
    "any option": any_option,
}


def judge(command: Command, folder: Path) -> tuple[int, str]:
    """Run a command; return its exit code and what is wrong with how it ended, empty where nothing is."""
    before = set(folder.rglob("*"))
    out, err = io.StringIO(), io.StringIO()
    code: Any = None
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            warnings.simplefilter("error")
            main(command)
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        if isinstance(sys.exc_info()[1], KeyboardInterrupt):
            raise
        return -1, traceback.format_exc(limit=-4)
    if code not in (0, 1, 2):
        return -1, f"exit code {code!r}"
    if code and not err.getvalue().strip():
        return code, "failed without a word"
    if code and len(err.getvalue().strip().splitlines()) > 3:
        return code, f"more than a line on stderr:\n{err.getvalue()}"
    left = {path for path in folder.rglob("*") if path not in before and path.name != "out.txt"}
    if left:
        return code, f"left behind: {sorted(path.name for path in left)}"
    if code and (folder / "out.txt").exists() and folder / "out.txt" not in before:
        return code, "failed and wrote a file"
    text = out.getvalue()
    if code == 0 and "--format" in command and command[command.index("--format") + 1] == "json" and text.strip():
        return code, _json_problem(text)
    return code, ""


def _json_problem(text: str) -> str:
    try:
        document = json.loads(text, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(f"{name} is no JSON")))
    except ValueError as error:
        return f"no JSON: {error}"
    plans = document.get("plans", []) if isinstance(document, dict) else []
    return next((f"feasible without a number: {p}" for p in plans if p.get("feasible") and None in p.values()), "")


def campaign(rounds: int, seed: int) -> tuple[Counter[str], list[str]]:
    """Run a number of spoiled commands; return how they ended and what went wrong."""
    ends: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(seed, seed + rounds):
        dice = random.Random(number)
        kind = dice.choice(sorted(KINDS))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            command = KINDS[kind](dice, folder)
            code, problem = judge(command, folder)
        ends[f"{kind}: exit {code}"] += 1
        if problem:
            wrong.append(f"--seed {number} --rounds 1: {' '.join(command)}\n{problem}")
    return ends, wrong


def run() -> int:
    """Read options, run the campaign, print its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    start = time.perf_counter()
    ends, wrong = campaign(options.rounds, options.seed)
    for end, count in sorted(ends.items()):
        print(f"{count:6} {end}")
    for each in wrong:
        print(f"\nWRONG {each}")
    print(
        f"\n{options.rounds} rounds from seed {options.seed}, {len(wrong)} wrong, {time.perf_counter() - start:.0f} s"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(run())
