"""Commands from the shell, cold: imports, profiles and the model are read anew every time."""

import resource
import subprocess
import sys
from typing import Any

import pytest

RANK = "rank serving --isl 4096 --osl 1024"
COMMANDS = {
    "perfmodel --help": "--help",
    "rank serving, Llama-3.1-70B on 32 H100": f"{RANK} --model llama-3.1-70b --system hgx-h100 --gpus 32",
    "rank serving, DeepSeek-V3 on 512 H200": f"{RANK} --model deepseek-v3 --system hgx-h200 --gpus 512",
}


def children_s() -> float:
    """Processor time of the commands that have ended [s]."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.benchmark(group="from the shell, cold", timer=children_s)
def test_command(benchmark: Any, name: str) -> None:
    """Time a command, its interpreter included."""
    line = [sys.executable, "-c", "from perfmodel.cli.main import main; main()", *COMMANDS[name].split()]
    done = benchmark.pedantic(subprocess.run, (line,), {"capture_output": True, "check": True}, rounds=7)
    benchmark.extra_info |= {"name": name, "items": 1, "unit": "commands"}
    assert done.stdout
