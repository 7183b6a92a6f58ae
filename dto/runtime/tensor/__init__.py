"""Tensor parallelism: layers that several ranks compute together."""

from __future__ import annotations

from dto.runtime.tensor.tensor_parallel import TensorParallel

__all__ = ["TensorParallel"]
