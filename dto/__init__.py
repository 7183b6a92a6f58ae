"""dto, the Distributed Training Orchestrator: one script, one machine or a cluster.

Names are imported when they are first used, so `import dto` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dto.distributed_trainer import DistributedTrainer, create_distributed_trainer
    from dto.runtime.callbacks import Callback, EarlyStop
    from dto.runtime.collectives import all_gather, all_reduce, broadcast, reduce_scatter
    from dto.runtime.data_parallel import DataParallel
    from dto.runtime.distribute import distribute
    from dto.runtime.owners import clip_grad_norm_, no_sync
    from dto.runtime.parameter_server import ParameterServer
    from dto.runtime.pipeline import Pipeline
    from dto.runtime.tensor import TensorParallel
    from dto.runtime.zero import Zero
    from dto.telemetry import log

__version__ = "0.1.0"
__all__ = [
    "Callback",
    "DataParallel",
    "DistributedTrainer",
    "EarlyStop",
    "ParameterServer",
    "Pipeline",
    "TensorParallel",
    "Zero",
    "__version__",
    "all_gather",
    "all_reduce",
    "broadcast",
    "clip_grad_norm_",
    "create_distributed_trainer",
    "distribute",
    "log",
    "no_sync",
    "reduce_scatter",
]

_HOMES = {
    "Callback": "dto.runtime.callbacks",
    "DataParallel": "dto.runtime.data_parallel",
    "DistributedTrainer": "dto.distributed_trainer",
    "EarlyStop": "dto.runtime.callbacks",
    "ParameterServer": "dto.runtime.parameter_server",
    "Pipeline": "dto.runtime.pipeline",
    "TensorParallel": "dto.runtime.tensor",
    "Zero": "dto.runtime.zero",
    "all_gather": "dto.runtime.collectives",
    "all_reduce": "dto.runtime.collectives",
    "broadcast": "dto.runtime.collectives",
    "clip_grad_norm_": "dto.runtime.owners",
    "create_distributed_trainer": "dto.distributed_trainer",
    "distribute": "dto.runtime.distribute",
    "log": "dto.telemetry",
    "no_sync": "dto.runtime.owners",
    "reduce_scatter": "dto.runtime.collectives",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'dto' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
