"""Constants of the hand-over between separate workers from measured TTFT [s]: rounded values under a robust loss."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from perfmodel.arrays import as_floats
from perfmodel.errors import CalibrationError
from perfmodel.estimate.serving.disaggregated import HandOff, Stages, first_token
from perfmodel.estimate.serving.workload import Workload

STEPS = (0.0, 2.0, 4.0, 5.0, 6.0, 8.0, 10.0, 11.0, 12.0, 13.0, 14.0, 15.0, 17.0, 20.0, 25.0, 30.0, 40.0)
"""Values that the steps of a hand-over may take: more digits would be noise."""

LOCKSTEPS = (0.0, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
"""Values that the share of waves in lockstep may take."""

CEILING = 1.0
"""Relative error beyond which a deployment counts no further: something else ran there."""


@dataclass(frozen=True, slots=True, eq=False)
class SeparateDeployments:
    """Measured deployments of one model and target with separate workers, their stages timed.

    Parameters
    ----------
    workload : Workload
        Lengths of each, and waves.
    stages : Stages
        What their requests pass through.
    ttft_s : numpy.ndarray
        Measured time to first token [s].
    """

    workload: Workload
    stages: Stages
    ttft_s: npt.NDArray[np.float64]

    def predicted(self, constants: HandOff) -> npt.NDArray[np.float64]:
        """Time to first token with some constants of the hand-over.

        Parameters
        ----------
        constants : HandOff
            Constants.

        Returns
        -------
        numpy.ndarray
            One value per deployment [s].
        """
        return np.broadcast_to(as_floats(first_token(self.workload, self.stages, constants)), self.ttft_s.shape)


def fit_handoff(groups: Sequence[SeparateDeployments]) -> HandOff:
    """Fit the constants of the hand-over to measured deployments.

    Parameters
    ----------
    groups : sequence of SeparateDeployments
        Deployments, one group per model and target.

    Returns
    -------
    HandOff
        The values of `STEPS` and `LOCKSTEPS` with the least mean relative error, each up to `CEILING`.

    Raises
    ------
    CalibrationError
        If there are no deployments.
    """
    if not groups:
        raise CalibrationError("no measured deployment is left to fit the constants of the hand-over to")

    def loss(constants: HandOff) -> float:
        errors = np.concatenate([np.abs(each.predicted(constants) / each.ttft_s - 1.0) for each in groups])
        return float(np.mean(np.minimum(errors, CEILING)))

    return min((HandOff(*values) for values in itertools.product(STEPS, LOCKSTEPS)), key=loss)
