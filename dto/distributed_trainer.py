"""The module name that users know; everything is in dto.runtime."""

from dto.runtime.trainer import DistributedTrainer, create_distributed_trainer

__all__ = ["DistributedTrainer", "create_distributed_trainer"]
