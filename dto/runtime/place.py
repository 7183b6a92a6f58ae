"""What a script asks its trainer about the rank that it runs in."""

from __future__ import annotations

import torch

from dto.runtime.session import Session
from dto.runtime.settings import logger


class Place:
    """Which rank this is, and what it does in the name of all."""

    session: Session

    @property
    def rank(self) -> int:
        return self.session.world.rank

    @property
    def size(self) -> int:
        return self.session.world.size

    @property
    def local_rank(self) -> int:
        return self.session.world.local_rank

    @property
    def device(self) -> torch.device:
        return self.session.device

    def is_master(self) -> bool:
        """Whether this is rank 0."""
        return self.session.world.is_master

    def log(self, message: str) -> None:
        """Log a line, from rank 0 only."""
        if self.is_master():
            logger.info(message)

    def allreduce(self, tensor: torch.Tensor, average: bool = True) -> torch.Tensor:
        """The sum or average of `tensor` over all ranks, as a new tensor."""
        result = tensor.detach().clone().to(self.device)
        self.session.transport.all_reduce(result)
        return result / self.size if average else result
