"""The grid of ranks: who splits data, layers, and single layers; and what may be combined."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dto.errors import ConfigError

AXES = ("dp", "pp", "tp")
DATA = ("ddp", "zero1", "zero2", "zero3", "ps")
"""How ranks that see different data keep together."""
STRATEGIES = (*DATA, "fsdp", "pipeline", "tensor")
_LEGAL = "legal are ddp and zero1 with pp and tp, zero2 and zero3 with tp, ps alone"


@dataclass(frozen=True)
class Mesh:
    """World = dp · pp · tp. Neighbouring ranks differ in tp first: it talks most."""

    dp: int = 1
    pp: int = 1
    tp: int = 1

    @property
    def size(self) -> int:
        return self.dp * self.pp * self.tp

    @property
    def sizes(self) -> list[int]:
        """As a checkpoint says it."""
        return [self.dp, self.pp, self.tp]

    def place(self, rank: int) -> dict[str, int]:
        """Where a rank stands on each axis."""
        inner, tp = divmod(rank, self.tp)
        dp, pp = divmod(inner, self.pp)
        return {"dp": dp, "pp": pp, "tp": tp}

    def rank(self, dp: int, pp: int, tp: int) -> int:
        """The rank at a place."""
        return (dp * self.pp + pp) * self.tp + tp

    def groups(self, *axes: str) -> list[list[int]]:
        """Ranks that differ on these axes alone, group by group; each rank is in one."""
        found: dict[tuple[int, ...], list[int]] = {}
        for rank in range(self.size):
            place = self.place(rank)
            fixed = tuple(place[axis] for axis in AXES if axis not in axes)
            found.setdefault(fixed, []).append(rank)
        return list(found.values())

    def __str__(self) -> str:
        return " x ".join(f"{axis} {getattr(self, axis)}" for axis in AXES)


@dataclass(frozen=True)
class Layout:
    """What a strategy's name and a mesh come to on this many ranks."""

    data: str
    mesh: Mesh

    @property
    def name(self) -> str:
        """For logs and the manifest: "ddp", "zero1+pipeline+tensor"."""
        more = [("pipeline", self.mesh.pp), ("tensor", self.mesh.tp)]
        return "+".join([self.data, *(word for word, size in more if size > 1)])

    @property
    def zero_stage(self) -> int:
        return int(self.data[-1]) if self.data.startswith("zero") else 0

    @property
    def is_flat(self) -> bool:
        """Whether all ranks see different data."""
        return self.mesh.pp == self.mesh.tp == 1


def lay_out(strategy: str, mesh: Mapping[str, int] | None, world: int) -> Layout:
    """Give a strategy its axes; an axis that is not named gets what is left of the world.

    Raises:
        ConfigError: the mesh does not multiply to the world, or the combination is not legal.
    """
    if strategy not in STRATEGIES:
        names = ", ".join(STRATEGIES)
        raise ConfigError(f"there is no strategy {strategy!r}: use one of {names}")
    data = {"fsdp": "zero3", "pipeline": "ddp", "tensor": "ddp"}.get(strategy, strategy)
    own = {"pipeline": "pp", "tensor": "tp"}.get(strategy, "dp")
    found = Layout(data, _fill(dict(mesh or {}), own, world))
    _check(found, strategy)
    return found


def _fill(sizes: dict[str, int], own: str, world: int) -> Mesh:
    for axis, size in sizes.items():
        if axis not in AXES:
            raise ConfigError(f"a mesh has no axis {axis!r}: its axes are dp, pp and tp")
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ConfigError(f"mesh axis {axis} is {size!r}: give a whole number from 1 on")
    free = next((axis for axis in (own, "dp") if axis not in sizes), None)
    named = Mesh(**sizes)
    if free is not None and world % named.size == 0:
        named = Mesh(**{**sizes, free: world // named.size})
    if named.size != world:
        raise ConfigError(
            f"the mesh {named} is for {named.size} ranks and the job has {world}:"
            " give sizes whose product is the number of ranks"
        )
    return named


def _check(layout: Layout, strategy: str) -> None:
    mesh, data = layout.mesh, layout.data
    is_legal = {
        "ps": mesh.pp == mesh.tp == 1,
        "zero2": mesh.pp == 1,
        "zero3": mesh.pp == 1,
    }.get(data, True)
    if not is_legal:
        raise ConfigError(f"{strategy} does not go with the mesh {mesh}: {_LEGAL}")
