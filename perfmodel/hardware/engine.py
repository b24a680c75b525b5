"""Engine: how serving software uses a device: memory it may take, tokens per step, time it spends on the host."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Engine:
    """Numbers that belong to the serving software and not to the device.

    Parameters
    ----------
    id : str
        Name: neutral, trtllm, vllm, sglang or the user's own.
    name : str
        Name for people.
    kernels : str
        Engine whose kernel calibrations are preferred; empty for whichever comes first.
    memory_fraction : float
        Share of device memory that weights, activations and cache may fill [1].
    framework_bytes : float
        Memory of the runtime outside that share's accounting: context, communicators, captured graphs [B].
    step_tokens : float
        Most tokens of one prefill step.
    host_step_s : float
        Time of a step during which the device waits for the host [s].
    overlap : float
        Share of collectives hidden behind computation [1].
    """

    id: str
    name: str
    kernels: str = ""
    memory_fraction: float = 0.9
    framework_bytes: float = 1.5e9
    step_tokens: float = 8192.0
    host_step_s: float = 0.0
    overlap: float = 0.0
