"""Search of large spaces of training plans: mesh after mesh, of which only the fastest plans are kept."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import Array
from perfmodel.estimate.training import predict as training
from perfmodel.estimate.training.predict import TrainingEstimate, predict_training
from perfmodel.estimate.training.target import TrainingTarget
from perfmodel.estimate.training.workload import TrainingWorkload
from perfmodel.layers.training_recipe import TrainingRecipe
from perfmodel.models.spec import ModelSpec
from perfmodel.parallel.mesh import mesh_parts
from perfmodel.parallel.training_grid import TRAINING_KNOBS, TrainingGrid

KEPT = 1000
"""Plans that are kept of a space too large to be held."""


def rounded_s(seconds: Array) -> Array:
    """Times with ten significant digits, so that plans of equal time are ties whatever their sums are rounded to.

    Parameters
    ----------
    seconds : numpy.ndarray
        Times [s].

    Returns
    -------
    numpy.ndarray
        Rounded times [s].
    """
    scale = 10.0 ** (np.floor(np.log10(np.maximum(seconds, 1e-12))) - 9.0)
    return np.round(seconds / scale) * scale


def order_of(seconds: Array, knobs: dict[str, Array]) -> npt.NDArray[np.intp]:
    """Order plans by their time, ties by their knobs.

    Parameters
    ----------
    seconds : numpy.ndarray
        Rounded times [s].
    knobs : dict
        Knob -> values, in the order in which ties are broken.

    Returns
    -------
    numpy.ndarray
        Positions, fastest first.
    """
    return np.lexsort((*reversed(knobs.values()), seconds))


@dataclass(slots=True)
class Search:
    """What is known of a space that was searched.

    Parameters
    ----------
    most : int
        Plans to keep.
    searched, feasible : int
        Plans evaluated, and those of them that can be.
    infeasible : dict
        Reason -> number of plans.
    knobs : dict
        Knob -> value of every kept plan, fastest first.
    seconds : numpy.ndarray
        Their rounded times [s].
    nearest : TrainingEstimate, optional
        The plan that exceeds memory by least.
    """

    most: int = KEPT
    searched: int = 0
    feasible: int = 0
    infeasible: dict[str, int] = field(default_factory=dict)
    knobs: dict[str, Array] = field(default_factory=lambda: {name: np.empty(0) for name in TRAINING_KNOBS})
    seconds: Array = field(default_factory=lambda: np.empty(0))
    nearest: tuple[TrainingGrid, float] | None = None

    def add(self, estimate: TrainingEstimate) -> None:
        """Take note of a block of plans.

        Parameters
        ----------
        estimate : TrainingEstimate
            Predictions of the block.
        """
        code = estimate.verdicts.code
        self.searched += code.size
        for reason, count in estimate.verdicts.counts().items():
            self.infeasible[reason] = self.infeasible.get(reason, 0) + count
        self._note_nearest(estimate, code == len(estimate.verdicts.rules))
        found = np.flatnonzero(code == 0)
        self.feasible += found.size
        if not found.size:
            return
        seconds = rounded_s(estimate["step_s"][found])
        # Nothing slower than the slowest that is kept can enter, nor what is slower than so many of its own block.
        limit = self.seconds[-1] if len(self.seconds) == self.most else np.inf
        if found.size > self.most:
            limit = min(limit, np.partition(seconds, self.most - 1)[self.most - 1])
        better = seconds <= limit
        taken = estimate.grid.take(found[better])
        seconds = np.concatenate([self.seconds, seconds[better]])
        knobs = {n: np.concatenate([self.knobs[n], getattr(taken, n)]) for n in TRAINING_KNOBS}
        order = order_of(seconds, knobs)[: self.most]
        self.seconds, self.knobs = seconds[order], {name: values[order] for name, values in knobs.items()}

    def _note_nearest(self, estimate: TrainingEstimate, crowded: npt.NDArray[np.bool_]) -> None:
        if self.feasible or not crowded.any():
            return
        need = np.where(crowded, estimate["device_bytes"], np.inf)
        best = int(np.argmin(need))
        if self.nearest is None or need[best] < self.nearest[1]:
            self.nearest = estimate.grid.take([best]), float(need[best])


def search_training(
    model: ModelSpec,
    target: TrainingTarget,
    meshes: Iterable[TrainingGrid],
    workload: TrainingWorkload,
    recipe: TrainingRecipe,
    *,
    most: int = KEPT,
) -> Search:
    """Predict every plan of some meshes and keep the fastest.

    The result does not depend on how the space is cut into meshes or blocks, and memory does not grow with it.

    Parameters
    ----------
    model : ModelSpec
        Model.
    target : TrainingTarget
        System, kernels and stack.
    meshes : iterable of TrainingGrid
        Open meshes that make up the space.
    workload : TrainingWorkload
        Sequence length and sequences per step.
    recipe : TrainingRecipe
        Number formats.
    most : int
        Plans to keep.

    Returns
    -------
    Search
        The fastest plans, and how many are infeasible for which reason.
    """
    search = Search(most)
    for mesh in meshes:
        for part in mesh_parts(mesh.shape, training.MOST_AT_ONCE):
            search.add(predict_training(model, target, mesh.part(part), workload, recipe))
    return search
