"""Stack: how training software uses a device: attention era, pointwise passes, host time, what it overlaps."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Stack:
    """Numbers that belong to training software and to its time, not to the device.

    Parameters
    ----------
    id : str
        Name, for instance "megatron-2021".
    name : str
        Name for people.
    attention : str
        Era of its attention kernels: "unfused" (scores in memory), "flash1" (FlashAttention and its Triton version),
        "flash2", or "flash3" (asynchronous copies and matrix units of their time, as in cuDNN 9 and serving engines).
    attention_factor : mapping of str to float
        Architecture -> time of the era's attention kernel over that of today's measured one [1].
    pointwise_efficiency : float
        Achieved part of the memory bandwidth in pointwise passes [1].
    clock_scale : float
        Clock of the multiprocessors in a short benchmark over that in a long training run [1].
    clock_by_architecture : mapping of str to float
        The same for architectures that differ from it: some hold their clocks under load and some do not [1].
    host_kernel_s : float
        Host time per kernel; a sequence of kernels takes at least that long [s].
    kernel_gap_s : float
        Gap between two kernels on the device [s].
    forward_kernels, backward_kernels : float
        Kernels of one layer.
    blend : float
        Exponent of the blend of host and device time; large where the longer of the two decides [1].
    grouped_experts : bool
        Whether one kernel computes the products of all local experts, side by side, as in DeepGEMM and CUTLASS;
        otherwise they are products of their own, one after the other, as in Transformer Engine.
    expert_kernels : float
        Kernels of one local expert in each of its products, forward; half as many again backward.
    router_kernels : float
        Kernels that a layer with experts has besides: routing, its loss, counting and permuting tokens, forward; two
        thirds as many backward.
    expert_spread : float
        Standard deviation, over its mean, of the load of one expert in one microbatch of all its ranks; 0 where routing
        is balanced by force [1].
    dropout : bool
        Whether dropout masks are made, kept and applied.
    fused_loss : bool
        Whether the cross entropy runs in a fused kernel.
    gradient_bytes : float
        Bytes per gradient that are accumulated and exchanged [B].
    wgrad_bytes : float
        Bytes per element that a weight-gradient product reads and writes [B].
    hidden_hops : bool
        Whether activations between pipeline stages travel while the next chunk is computed (interleaved schedules).
    hidden_tp : float
        Part of tensor-parallel communication that is hidden behind products [1].
    hidden_ep : float
        Part of expert exchange that is hidden behind computation [1].
    fused_exchange : bool
        Whether tokens for experts on other nodes are sent by fused kernels, once to each node, where links forward them
        (DeepEP, HybridEP); otherwise the library exchanges every copy on its own.
    shard_waits : bool
        Whether computation waits for every gather of sharded weights and every scatter of their gradients.
    shard_gathers, shard_scatters : float
        Collectives in which a layer's sharded weights are gathered, and its gradients scattered.
    shard_rebuilds : float
        Small tensors of a layer that every rank keeps whole and puts together anew, rank by rank, after an update.
    shard_rank_kernels : float
        Kernels that the host launches for each rank of such a collective, to copy its part.
    shard_passes : float
        Times that the buffer of such a collective is read or written beside it.
    framework_bytes : float
        Memory of the runtime outside the framework's allocator [B].
    systems : mapping of str to str
        Source of measurements that the stack describes -> system they ran on; empty for the device's default.
    provenance : mapping of str to str
        Key -> where its number comes from.
    """

    id: str
    name: str
    attention: str = "flash3"
    attention_factor: Mapping[str, float] = field(default_factory=dict, hash=False)
    pointwise_efficiency: float = 0.7
    clock_scale: float = 1.0
    clock_by_architecture: Mapping[str, float] = field(default_factory=dict, hash=False)
    host_kernel_s: float = 8e-6
    kernel_gap_s: float = 0.0
    forward_kernels: float = 20.0
    backward_kernels: float = 35.0
    blend: float = 4.0
    grouped_experts: bool = True
    expert_kernels: float = 0.0
    router_kernels: float = 0.0
    expert_spread: float = 0.0
    dropout: bool = False
    fused_loss: bool = True
    gradient_bytes: float = 4.0
    wgrad_bytes: float = 8.0
    hidden_hops: bool = True
    hidden_tp: float = 0.0
    hidden_ep: float = 0.0
    fused_exchange: bool = True
    shard_waits: bool = False
    shard_gathers: float = 1.0
    shard_scatters: float = 1.0
    shard_rebuilds: float = 0.0
    shard_rank_kernels: float = 0.0
    shard_passes: float = 0.0
    framework_bytes: float = 2e9
    systems: Mapping[str, str] = field(default_factory=dict, hash=False)
    provenance: Mapping[str, str] = field(default_factory=dict, hash=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        for name in ("attention_factor", "clock_by_architecture", "systems", "provenance"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    @property
    def unfused(self) -> bool:
        """Whether attention scores are written to memory."""
        return self.attention == "unfused"

    def slowdown(self, architecture: str) -> float:
        """Clock of the multiprocessors in a short benchmark over that in a long run.

        Parameters
        ----------
        architecture : str
            Device family.

        Returns
        -------
        float
            Factor [1].
        """
        return self.clock_by_architecture.get(architecture, self.clock_scale)

    def attention_slowdown(self, architecture: str) -> float:
        """Time of the era's attention kernel over that of today's measured one.

        Parameters
        ----------
        architecture : str
            Device family, for instance "hopper".

        Returns
        -------
        float
            Factor, 1 where the stack names none [1].
        """
        return self.attention_factor.get(architecture, 1.0)
