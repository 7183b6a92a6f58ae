"""Only operations whose bits are the same in every run."""

from __future__ import annotations

import os

import torch


def make_deterministic() -> None:
    """Have torch choose deterministic kernels, and raise where an operation has none.

    Before CUDA is used: cuBLAS reads its setting when it starts.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
