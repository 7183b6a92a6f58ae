"""What a transport promises, on living ranks."""

from __future__ import annotations

import pytest

from tests.processes.pool import RankFailed, pool

pytestmark = [pytest.mark.process, pytest.mark.ranks]
TRANSPORTS = ["gloo", pytest.param("horovod", marks=pytest.mark.horovod)]


@pytest.mark.parametrize("backend", TRANSPORTS)
@pytest.mark.parametrize("world", [2, 3, 4])
def test_scattered_sums_and_gathered_parts_are_everybodys(backend: str, world: int) -> None:
    for rank in pool(backend, world).run("transports.scatter_and_gather", world):
        assert rank == [[True, True]] * (12 if backend == "horovod" else 15)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_parts_are_gathered_where_they_lie(world: int) -> None:
    whole = [float(rank + 1) for rank in range(world) for _ in range(3)]
    assert pool("gloo").run("transports.gather_in_place", world) == [whole] * world


def test_a_world_splits_into_parts_that_count_from_zero() -> None:
    found = pool("gloo").run("transports.halves", 4)
    assert found == [[0, 2, 2.0, 0.0], [0, 2, 4.0, 1.0], [1, 2, 2.0, 0.0], [1, 2, 4.0, 1.0]]


@pytest.mark.horovod
def test_horovod_says_that_it_cannot_split() -> None:
    first, second = pool("horovod", 2).outcomes("transports.halves", 2)
    assert first == second
    assert first["kind"] == "ConfigError" and "use --backend gloo" in first["error"]


def test_the_pool_tells_which_rank_failed_and_lives_on() -> None:
    with pytest.raises(RankFailed, match=r"rank 1: .*(?s:.*)ValueError: as asked"):
        pool("gloo").run("transports.fail_on_one", 2)
    assert len(pool("gloo").run("transports.gather_in_place", 2)) == 2
