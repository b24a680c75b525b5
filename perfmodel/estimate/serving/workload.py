"""Workload: the requests that a deployment serves: lengths, arrivals, reuse and drafting."""

from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Literal

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Floats, as_floats
from perfmodel.costs.reuse import shared_prefix_saving
from perfmodel.costs.serving import speculated_tokens
from perfmodel.errors import PlanError
from perfmodel.parallel.mesh import Slices, take_part


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests that a deployment serves.

    Parameters
    ----------
    isl : float or array
        Input tokens of a request.
    osl : float or array
        Output tokens of a request.
    waves : float
        How many times its concurrency a closed loop sends in all, the first wave at once; infinite for a load that
        has run for long.
    equal_lengths : bool or array
        Whether all requests of a closed loop have these lengths, as in many benchmarks, so that they keep the order and
        the distances in which they started; lengths that vary, with these as their mean, let them drift apart.
    arrivals : str
        "closed": a finished request is replaced at once. "poisson": requests arrive at random, independently.
    rate : float or array
        Requests per second that arrive at one attention-data-parallel rank, under Poisson arrivals; by default what
        keeps the plan's concurrency in flight [1/s].
    prefix_hit : float
        Share of the input tokens whose cache is found and not computed again [1].
    host_hit : float
        Share of the input tokens whose cache is fetched from host memory and not computed again [1].
    shared_prefix : float
        Share of the input tokens that belong to a prefix which a group of requests has in common [1].
    sharers : float
        Requests of such a group; their prefix is computed and stored once.
    host_experts : float
        Share of the routed experts whose weights lie in host memory and are fetched when a token picks them [1].
    expert_hit : float, optional
        Share of the picks whose expert is on the device, or was fetched ahead by a prediction; by default that of a
        fixed cache of the busiest experts, at the engine's expert skew and even loads where it has none [1].
    draft_tokens : int
        Tokens that are drafted per decode step and verified together; 0 for plain decoding.
    acceptance : float
        Probability that a drafted token is accepted, given that those before it were [1].
    draft_cost : float, optional
        Time to draft one token over the time of a decode step; by default that of the model's own blocks that predict
        further tokens, and nothing where it has none [1].
    """

    isl: Floats
    osl: Floats
    waves: float = np.inf
    equal_lengths: bool | npt.NDArray[np.bool_] = False
    arrivals: Literal["closed", "poisson"] = "closed"
    rate: Floats = np.nan
    prefix_hit: float = 0.0
    host_hit: float = 0.0
    shared_prefix: float = 0.0
    sharers: float = 1.0
    host_experts: float = 0.0
    expert_hit: float | None = None
    draft_tokens: int = 0
    acceptance: float = 0.7
    draft_cost: float | None = None

    def __post_init__(self) -> None:
        self._refuse_no_numbers()
        for name in ("isl", "osl"):
            value = as_floats(getattr(self, name))
            wrong = ~(np.isfinite(value) & (value >= 1) & (value == np.floor(value)))
            if np.any(wrong):
                raise PlanError(f"{name} must be a whole number of tokens, at least 1, not {value[wrong].ravel()[0]:g}")
        if not self.waves >= 1:
            raise PlanError(f"waves must be at least 1, not {self.waves:g}")
        if self.arrivals not in ("closed", "poisson"):
            raise PlanError(f"arrivals must be closed or poisson, not {self.arrivals!r}")
        if np.asarray(self.equal_lengths).dtype != np.bool_:
            raise PlanError(f"equal_lengths must be true or false, not {self.equal_lengths!r}")
        if self.arrivals == "poisson" and np.any(self.equal_lengths):
            raise PlanError("equal_lengths belong to a closed loop: what arrives at random keeps no order")
        if np.any(as_floats(self.rate) < 0):
            raise PlanError("rate must not be negative")
        if self.arrivals == "poisson" and np.any(as_floats(self.osl) < 2):
            raise PlanError("Poisson arrivals need an osl of at least 2: nothing decodes with 1")
        if not 1 <= self.sharers < np.inf:
            raise PlanError(f"sharers must be at least 1, not {self.sharers:g}")
        shares = ("prefix_hit", "host_hit", "shared_prefix", "acceptance", "host_experts", "expert_hit")
        for name, top in (*((each, 1.0) for each in shares), ("draft_cost", np.inf), ("draft_tokens", 16.0)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= top:
                raise PlanError(f"{name} must lie between 0 and {top:g}, not {value:g}")
        if self.draft_tokens != np.floor(self.draft_tokens):
            raise PlanError(f"draft_tokens must be a whole number, not {self.draft_tokens:g}")
        if self.prefix_hit + self.host_hit + self.shared_prefix > 1:
            raise PlanError("prefix_hit, host_hit and shared_prefix together exceed the input")

    def _refuse_no_numbers(self) -> None:
        """Refuse what is no number, or is many where one counts for all plans."""
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in ("isl", "osl", "rate"):
                try:
                    as_floats(value)
                except (TypeError, ValueError):
                    raise PlanError(f"{each.name}: {value!r} holds what is no number") from None
            elif each.name not in ("arrivals", "equal_lengths"):
                optional = value is None and each.name in ("expert_hit", "draft_cost")
                if not optional and (isinstance(value, bool) or not isinstance(value, Real)):
                    raise PlanError(f"{each.name}: {value!r} is not one number, which it is for all plans")

    def part(self, slices: Slices) -> "Workload":
        """Return what belongs to a block of plans.

        Parameters
        ----------
        slices : tuple of slice
            One slice per axis of the plans.

        Returns
        -------
        Workload
            The same for these plans.
        """
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        arrays = {name: take_part(v, slices) for name, v in values.items() if isinstance(v, np.ndarray)}
        return replace(self, **arrays)  # type: ignore[arg-type]

    @property
    def new_tokens(self) -> Floats:
        """Input tokens that are computed: those whose cache is not found, at least the last."""
        found = self.prefix_hit + self.host_hit + shared_prefix_saving(self.shared_prefix, self.sharers)
        return np.maximum(np.ceil(as_floats(self.isl) * (1.0 - found)), 1.0)

    @property
    def tokens_per_step(self) -> float:
        """Tokens of one decode step: one, and those of its draft that are accepted."""
        return float(speculated_tokens(self.draft_tokens, self.acceptance)) if self.draft_tokens else 1.0

    @property
    def stored_tokens(self) -> Floats:
        """Input tokens whose cache a request takes memory for: its share of a common prefix, and the rest."""
        return as_floats(self.isl) * (1.0 - shared_prefix_saving(self.shared_prefix, self.sharers))
