"""Options of a serving load that several commands share: what is reused of prompts, and what is drafted."""

from typing import Annotated

import typer

from perfmodel.cli.options import refuse_unread

PrefixHit = Annotated[float, typer.Option("--prefix-hit", help="Share of the input tokens found in the prefix cache.")]
HostHit = Annotated[float, typer.Option("--host-hit", help="Share of the input tokens whose cache is in host memory.")]
SharedPrefix = Annotated[
    float, typer.Option("--shared-prefix", help="Share of the input that a group of requests shares.")
]
Sharers = Annotated[float, typer.Option("--sharers", help="Requests that share a prefix.")]
HostExperts = Annotated[
    float, typer.Option("--host-experts", help="Share of the routed experts whose weights are in host memory.")
]
ExpertHit = Annotated[
    float | None,
    typer.Option("--expert-hit", help="Share of the picks found on the device; by default the busiest experts are."),
]
DraftTokens = Annotated[
    int, typer.Option("--draft-tokens", help="Tokens drafted per decode step (MTP, speculative decoding).")
]
Acceptance = Annotated[float, typer.Option("--acceptance", help="Probability that a drafted token is accepted.")]
DraftCost = Annotated[
    float | None,
    typer.Option("--draft-cost", help="Time to draft a token, over a decode step; by default its own blocks'."),
]


def refuse_unread_loads(
    context: typer.Context,
    schedule: str,
    *,
    moe: bool,
    shared_prefix: float,
    sharers: float,
    host_experts: float,
    draft_tokens: int,
) -> None:
    """Refuse options of a load that belong to a part of it that is not there.

    Parameters
    ----------
    context : typer.Context
        Tells which options were typed.
    schedule : str
        How the engine schedules prompts.
    moe : bool
        Whether the model has experts.
    shared_prefix, sharers : float
        Share of the input that requests share [1], and how many do.
    host_experts : float
        Share of the experts in host memory [1].
    draft_tokens : int
        Tokens drafted per step.

    Raises
    ------
    PlanError
        For the first option that nothing would read.
    """
    drafting = (draft_tokens > 0, "--draft-tokens")
    refuse_unread(
        context,
        chunk=(schedule == "chunked", "--schedule chunked"),
        shared_prefix=(sharers > 1, "--sharers above 1"),
        sharers=(shared_prefix > 0, "--shared-prefix"),
        expert_skew=(moe, "a mixture of experts"),
        expert_hit=(host_experts > 0, "--host-experts"),
        acceptance=drafting,
        draft_cost=drafting,
    )
