"""Analytical performance models for large-model inference and training."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perfmodel.api import predict as predict
    from perfmodel.api import rank as rank
    from perfmodel.api_compare import compare as compare
    from perfmodel.api_targets import precision_of as precision_of
    from perfmodel.api_targets import target as target
    from perfmodel.api_training import rank_training_plans as rank_training_plans
    from perfmodel.api_training import train as train
    from perfmodel.costs.registry import FORMULAS as FORMULAS
    from perfmodel.errors import NothingFeasibleError as NothingFeasibleError
    from perfmodel.errors import PerfmodelError as PerfmodelError
    from perfmodel.estimate.result import Estimate as Estimate
    from perfmodel.estimate.serving.workload import Workload as Workload
    from perfmodel.estimate.training.target import training_target as training_target
    from perfmodel.hardware.catalog import load_device as load_device
    from perfmodel.hardware.catalog import load_system as load_system
    from perfmodel.layers.precision import Precision as Precision
    from perfmodel.models.catalog import load_model as load_model
    from perfmodel.parallel.grid import PlanGrid as PlanGrid
    from perfmodel.parallel.grid import plans as plans
    from perfmodel.parallel.training_grid import training_plans as training_plans
    from perfmodel.ranking.compare import Comparison as Comparison
    from perfmodel.ranking.limits import Limits as Limits
    from perfmodel.ranking.serving import Ranking as Ranking
    from perfmodel.sweep.read import open_sweep as open_sweep
    from perfmodel.sweep.run import run_sweep as run_sweep
    from perfmodel.sweep.study_files import read_study as read_study

__version__ = "0.1.0"

_HOMES = {
    "Comparison": "perfmodel.ranking.compare",
    "Estimate": "perfmodel.estimate.result",
    "FORMULAS": "perfmodel.costs.registry",
    "Limits": "perfmodel.ranking.limits",
    "NothingFeasibleError": "perfmodel.errors",
    "PerfmodelError": "perfmodel.errors",
    "PlanGrid": "perfmodel.parallel.grid",
    "Precision": "perfmodel.layers.precision",
    "Ranking": "perfmodel.ranking.serving",
    "Workload": "perfmodel.estimate.serving.workload",
    "compare": "perfmodel.api_compare",
    "load_device": "perfmodel.hardware.catalog",
    "load_model": "perfmodel.models.catalog",
    "load_system": "perfmodel.hardware.catalog",
    "open_sweep": "perfmodel.sweep.read",
    "plans": "perfmodel.parallel.grid",
    "precision_of": "perfmodel.api_targets",
    "predict": "perfmodel.api",
    "rank": "perfmodel.api",
    "rank_training_plans": "perfmodel.api_training",
    "read_study": "perfmodel.sweep.study_files",
    "run_sweep": "perfmodel.sweep.run",
    "target": "perfmodel.api_targets",
    "train": "perfmodel.api_training",
    "training_plans": "perfmodel.parallel.training_grid",
    "training_target": "perfmodel.estimate.training.target",
}

__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    # Loaded on first use, so that importing the package costs nothing.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'perfmodel' has no attribute {name!r}")
