"""Pipeline parallelism: schedules and cuts as pure functions, and what carries them out."""

from __future__ import annotations

from dto.runtime.pipeline.partition import cut, layers_of, measure_costs
from dto.runtime.pipeline.pipeline import Pipeline
from dto.runtime.pipeline.schedule import make_plan
from dto.runtime.pipeline.simulation import bubble, draw

__all__ = ["Pipeline", "bubble", "cut", "draw", "layers_of", "make_plan", "measure_costs"]
