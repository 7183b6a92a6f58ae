"""Training by a parameter server: workers push gradients and pull parameters.

Li et al., "Scaling Distributed Machine Learning with the Parameter Server" (OSDI 2014). Read in
this order: `rules.py` says who waits for whom, `masters.py` takes the optimizer's steps,
`server.py` puts the two together, `desk.py` and `service.py` are the two ends of the messages,
`share.py` packs and unpacks, and `worker.py` is what a user calls.
"""

from __future__ import annotations

from dto.runtime.parameter_server.rules import MODES
from dto.runtime.parameter_server.worker import ParameterServer

__all__ = ["MODES", "ParameterServer"]
