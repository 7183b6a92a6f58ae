"""Choosing and opening the transport that this rank talks through."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch
import torch.distributed as dist

from dto.errors import WorldError
from dto.runtime.transport.base import Handle, Message, Messenger, Transport
from dto.runtime.transport.local import LocalTransport
from dto.runtime.world import World, read_world

__all__ = [
    "BACKENDS",
    "Handle",
    "Message",
    "Messenger",
    "Transport",
    "broadcast_all",
    "choose_backend",
    "join_world",
    "open_transport",
]

BACKENDS = ("auto", "nccl", "gloo", "horovod")


def choose_backend(backend: str, device: torch.device, env: Mapping[str, str]) -> str:
    """`auto` is what the launcher was told (`DTO_BACKEND`), else NCCL for GPUs, else Gloo."""
    chosen = backend if backend != "auto" else env.get("DTO_BACKEND") or "auto"
    if chosen not in BACKENDS:
        raise WorldError(f"there is no backend {chosen!r}: use one of {', '.join(BACKENDS)}")
    if chosen == "auto":
        return "nccl" if device.type == "cuda" else "gloo"
    if chosen == "nccl" and device.type != "cuda":
        raise WorldError("backend nccl needs a GPU, and this rank has none: use gloo")
    return chosen


def open_transport(
    backend: str, world: World, device: torch.device, env: Mapping[str, str]
) -> Transport:
    """Join the world; every rank calls this once."""
    chosen = choose_backend(backend, device, env)
    if world.size == 1:
        return LocalTransport()
    if chosen == "horovod":
        from dto.runtime.transport.horovod_transport import HorovodTransport

        return HorovodTransport(world)
    from dto.runtime.transport.torch_transport import TorchTransport

    return TorchTransport(chosen, world, device)


def join_world(device: torch.device) -> Transport:
    """All ranks of the script's own process group, else those that the launcher started."""
    if dist.is_initialized():
        world = World(dist.get_rank(), dist.get_world_size())
    else:
        world = read_world(os.environ)
    return open_transport("auto", world, device, os.environ)


def broadcast_all(transport: Transport, tensors: list[torch.Tensor]) -> None:
    """Broadcast from rank 0 with one message per dtype and device."""
    groups: dict[tuple[torch.dtype, torch.device], list[torch.Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for group in groups.values():
        flat = torch.cat([tensor.reshape(-1) for tensor in group])
        transport.broadcast(flat)
        parts = torch.split(flat, [tensor.numel() for tensor in group])
        for tensor, part in zip(group, parts, strict=True):
            tensor.copy_(part.view(tensor.shape))
