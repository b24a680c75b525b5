"""Options of a serving load that several commands share: what is reused of prompts, and what is drafted."""

from typing import Annotated

import typer

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
