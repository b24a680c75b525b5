"""Engine: how serving software uses a device: memory it may take, tokens per step, time it spends on the host."""

from dataclasses import dataclass

SPLITS = ("none", "tokens", "nano")
"""How steps overlap with themselves."""

SCHEDULES = ("prefill-first", "chunked", "layered")
"""How prompts and running requests share an engine's steps."""

LAYER_PARTS = ("attention", "gate", "shared", "exchange", "experts")
"""Parts of a layer with experts that streams divide among themselves; `attention` is all that is none of the others."""


@dataclass(frozen=True, slots=True)
class Streams:
    """Two streams of one device between which the two microbatches of a step alternate.

    Parameters
    ----------
    first : tuple of str
        Parts of a layer with experts that run on the first stream, of `LAYER_PARTS`; the others run on the second.
    first_cores : tuple of float
        Shares of the device's cores that the first stream may have, of which the fastest is taken; the second has the
        others. A share of 1 means that both streams use all cores, one at a time [1].
    paired : bool
        Whether a layer is four phases, in each of which one microbatch computes and the other one's tokens travel.
    least_tokens : float
        Tokens of a microbatch on one device below which a step stays whole.
    exchange_s : float
        Time that a dispatch or a combine takes of cores that both streams use, for sending and receiving [s].
    """

    first: tuple[str, ...] = ("attention",)
    first_cores: tuple[float, ...] = (1.0,)
    paired: bool = False
    least_tokens: float = 1.0
    exchange_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Waits:
    """How long the ranks of a layer with experts wait for each other, and each for its host, in a step.

    Parameters
    ----------
    gate_s : float
        Wait of the computation for the rows that come to each rank, which what follows is launched with [s].
    dispatch_s, combine_s : float
        Wait of an exchange for the last rank that takes part [s].
    ranks : float
        Ranks among which these were measured.
    """

    gate_s: float = 0.0
    dispatch_s: float = 0.0
    combine_s: float = 0.0
    ranks: float = 2.0


@dataclass(frozen=True, slots=True)
class Engine:
    """Numbers that belong to the serving software and not to the device.

    Parameters
    ----------
    id : str
        Name: neutral, trtllm, vllm, sglang, cloudmatrix-infer, deepseek or the user's own.
    name : str
        Name for people.
    kernels : str
        Engine whose kernel calibrations are preferred; empty for whichever comes first.
    memory_fraction : float
        Share of device memory that weights, activations and cache may fill [1].
    reserved_output : float
        Share of a request's output tokens for which cache is set aside when it is admitted [1].
    own_quantiser : bool
        Whether its 8-bit checkpoints come from its own quantiser, scales per tensor, and not from the publisher.
    fraction_of_free : bool
        Whether `memory_fraction` is a share of what weights and working memory leave, and not of the whole.
    small_cache : tuple of str
        Architectures on which checkpoints with 8-bit or 4-bit float weights get an 8-bit KV cache unless the user says
        otherwise; "all" for every one.
    framework_bytes : float
        Memory of the runtime outside that share's accounting: context, communicators, captured graphs [B].
    step_tokens : float
        Most tokens of one prefill step.
    decode_step_s : float
        Host time of a decode step that the device waits for: scheduling, inputs, launch of the graph [s].
    decode_request_s : float
        Host time that each running request adds to a decode step: sampling, its token's text and its message [s].
    prefill_layer_s : float
        Time per layer that a prompt waits for its kernels, which are launched one by one; other requests' steps fill
        the device meanwhile [s].
    launches_ahead : bool
        Whether a prompt's kernels are launched while its earlier ones run, so that it takes the longer of host and
        device, and not both.
    request_s : float
        Host time of a request before its first step: receiving, tokenising, scheduling [s].
    stream_steps : float
        Decode steps between the end of a prompt and the moment when its first token is seen [1].
    balance_steps : float
        Decode steps for which a prompt waits until the other attention-data-parallel ranks have one too [1].
    drains_prompts : bool
        Whether all waiting prompts are computed before running requests decode on.
    overlap : float
        Share of collectives hidden behind computation [1].
    quantises_apart : tuple of str
        Architectures on which its products in 8 bits with scales per block are timed without the kernel that quantises
        their input; "all" for every one.
    fused : tuple of str
        Passes that are part of a neighbouring kernel in this engine, by the name they have in a derivation.
    schedule : str
        "prefill-first": waiting prompts run before the next decode step. "chunked": each step holds a chunk of a prompt
        beside all running requests. "layered": each step takes a whole prompt through one group of layers.
    chunk_tokens : float
        Tokens of a step of the chunked schedule, those of running requests included.
    split : str
        "tokens": steps are cut in two so that collectives of one half hide behind the other. "nano": arithmetic, memory
        and network of both halves overlap, as far as that goes. "none": neither.
    expert_skew : float, optional
        Exponent of the power law that the experts' loads follow: 0 where redundant experts level them. By default that
        of measured deployments, levelled in large expert-parallel groups.
    decode_streams, prefill_streams : Streams, optional
        How the microbatches of a step with experts overlap; none where steps stay whole.
    prefill_waits : Waits
        How long ranks wait for each other in a layer of a prefill, whatever the number of tokens.
    redundant_experts : int
        Copies of busy experts beside the model's own, where expert-parallel ranks divide them all.
    shared_copies : int
        Copies of the shared expert that decode steps route to like the others, one of them per token; 0 where every
        device computes it for its own tokens.
    decode_spread, prefill_spread : float
        Standard deviation, over its mean, of the load that a place for an expert keeps after balancing [1].
    ordered_prefill : bool
        Whether passes of their own put the rows of a prefill in the order of their experts and add up the results.
    regrouped_prefill : bool
        Whether prefill shares out tokens for the projections and heads for latent attention, changing between them by
        an all-gather of the compressed vectors and an all-to-all of the heads.
    """

    id: str
    name: str
    kernels: str = ""
    memory_fraction: float = 0.9
    reserved_output: float = 1.0
    own_quantiser: bool = False
    fraction_of_free: bool = False
    small_cache: tuple[str, ...] = ()
    framework_bytes: float = 1.5e9
    step_tokens: float = 8192.0
    decode_step_s: float = 0.0
    decode_request_s: float = 0.0
    prefill_layer_s: float = 0.0
    launches_ahead: bool = True
    request_s: float = 0.0
    stream_steps: float = 1.0
    balance_steps: float = 0.0
    drains_prompts: bool = False
    overlap: float = 0.0
    quantises_apart: tuple[str, ...] = ()
    fused: tuple[str, ...] = ()
    schedule: str = "prefill-first"
    chunk_tokens: float = 512.0
    split: str = "none"
    expert_skew: float | None = None
    decode_streams: Streams | None = None
    prefill_streams: Streams | None = None
    prefill_waits: Waits = Waits()
    redundant_experts: int = 0
    shared_copies: int = 0
    decode_spread: float = 0.0
    prefill_spread: float = 0.0
    ordered_prefill: bool = False
    regrouped_prefill: bool = False

    def spread(self, *, decode: bool) -> float:
        """Spread of the load of a place for an expert in one kind of step.

        Parameters
        ----------
        decode : bool
            Whether it is a decode step.

        Returns
        -------
        float
            Standard deviation over the mean [1].
        """
        return self.decode_spread if decode else self.prefill_spread
