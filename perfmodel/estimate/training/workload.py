"""What one optimizer step trains on: sequences, their lengths [tokens], and the chunks that they are put into."""

from dataclasses import dataclass

import numpy as np

from perfmodel.arrays import Floats, as_floats
from perfmodel.errors import PlanError
from perfmodel.models.lengths import Lengths


@dataclass(frozen=True, slots=True)
class TrainingWorkload:
    """What one optimizer step trains on.

    Parameters
    ----------
    seq : float
        Tokens of a sequence; of the longest, where their lengths differ.
    global_batch : float or array
        Sequences of a step; an array broadcasts against the plans.
    lengths : Lengths, optional
        How many tokens the sequences have; those above `seq` are cut. By default all have `seq`.
    chunk : float
        Tokens of a chunk, into which short sequences are packed and long ones are cut; 0 for none.
    retained : float
        Chunks of a sequence whose activations are kept; of a longer one the earlier chunks are computed again.
    """

    seq: float
    global_batch: Floats
    lengths: Lengths | None = None
    chunk: float = 0.0
    retained: float = 1.0

    def __post_init__(self) -> None:
        lowest = {"seq": 1.0, "global_batch": 1.0, "chunk": 0.0, "retained": 1.0}
        for name, low in lowest.items():
            values = as_floats(getattr(self, name))
            wrong = ~np.isfinite(values) | (values < low) | (values != np.floor(values))
            if np.any(wrong):
                raise PlanError(f"{name} must be a whole number of at least {low:g}, not {float(values[wrong][0]):g}")

    @property
    def drawn(self) -> Lengths:
        """Lengths that sequences have in training."""
        return self.lengths.cut(self.seq) if self.lengths else Lengths((float(self.seq),), (1.0,))

    @property
    def mixed(self) -> bool:
        """Whether microbatches differ in length, or in the part of a sequence that they hold."""
        return self.chunk > 0 or len(self.drawn.tokens) > 1

    @property
    def mean_tokens(self) -> float:
        """Tokens of a sequence on average."""
        return self.drawn.mean
