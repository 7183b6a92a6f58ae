"""A mesh is filled up, numbered and refused by rules that need no ranks."""

from __future__ import annotations

import itertools

import pytest

from dto.errors import ConfigError
from dto.runtime.mesh import AXES, Mesh, lay_out

SIZES = [Mesh(*sizes) for sizes in itertools.product((1, 2, 3), repeat=3)]


@pytest.mark.parametrize("mesh", SIZES, ids=str)
def test_every_rank_has_a_place_of_its_own_and_one_group_on_each_axis(mesh: Mesh) -> None:
    places = [tuple(mesh.place(rank).values()) for rank in range(mesh.size)]
    assert sorted(places) == sorted(
        itertools.product(range(mesh.dp), range(mesh.pp), range(mesh.tp))
    )
    assert [mesh.rank(**mesh.place(rank)) for rank in range(mesh.size)] == list(range(mesh.size))
    for axis in AXES:
        groups = mesh.groups(axis)
        assert sorted(sum(groups, [])) == list(range(mesh.size))
        assert {len(group) for group in groups} == {getattr(mesh, axis)}
        for group in groups:
            assert [mesh.place(rank)[axis] for rank in group] == list(range(len(group)))
    assert mesh.groups(*AXES) == [list(range(mesh.size))]


def test_neighbours_differ_in_tensor_parallelism_first() -> None:
    mesh = Mesh(2, 2, 2)
    assert mesh.groups("tp") == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert mesh.groups("pp") == [[0, 2], [1, 3], [4, 6], [5, 7]]
    assert mesh.groups("dp") == [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize(
    ("strategy", "mesh", "world", "name", "sizes"),
    [
        ("ddp", None, 4, "ddp", (4, 1, 1)),
        ("fsdp", None, 3, "zero3", (3, 1, 1)),
        ("pipeline", None, 3, "ddp+pipeline", (1, 3, 1)),
        ("pipeline", {"pp": 2}, 4, "ddp+pipeline", (2, 2, 1)),
        ("pipeline", {"dp": 2}, 4, "ddp+pipeline", (2, 2, 1)),
        ("tensor", {"tp": 2}, 2, "ddp+tensor", (1, 1, 2)),
        ("zero1", {"pp": 2, "tp": 2}, 8, "zero1+pipeline+tensor", (2, 2, 2)),
        ("zero3", {"tp": 2}, 4, "zero3+tensor", (2, 1, 2)),
        ("ps", None, 2, "ps", (2, 1, 1)),
    ],
)
def test_axes_that_are_not_named_get_what_is_left(
    strategy: str, mesh: dict[str, int] | None, world: int, name: str, sizes: tuple[int, ...]
) -> None:
    layout = lay_out(strategy, mesh, world)
    assert layout.name == name
    assert (layout.mesh.dp, layout.mesh.pp, layout.mesh.tp) == sizes


@pytest.mark.parametrize(
    ("strategy", "mesh", "world", "words"),
    [
        ("megatron", None, 2, "there is no strategy 'megatron': use one of ddp, zero1"),
        ("ddp", {"dp": 2, "pp": 2, "tp": 1}, 2, "is for 4 ranks and the job has 2"),
        ("ddp", {"tp": 3}, 4, "is for 3 ranks and the job has 4"),
        ("ddp", {"ep": 2}, 2, "no axis 'ep'"),
        ("ddp", {"dp": 0}, 2, "mesh axis dp is 0"),
        ("zero2", {"pp": 2}, 4, "zero2 does not go with the mesh dp 2 x pp 2 x tp 1: legal are"),
        ("fsdp", {"pp": 2}, 2, "fsdp does not go with"),
        ("ps", {"tp": 2}, 4, "ps does not go with"),
    ],
)
def test_what_cannot_be_is_refused_with_what_can(
    strategy: str, mesh: dict[str, int] | None, world: int, words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        lay_out(strategy, mesh, world)
