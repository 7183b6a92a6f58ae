"""A rank knows its place from any launcher, and never guesses from half of it."""

from __future__ import annotations

import pytest

from dto.errors import UsageError, WorldError
from dto.runtime.every import Every, parse_every
from dto.runtime.world import World, read_world

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "12345",
}


def test_nothing_set_is_a_world_of_one() -> None:
    world = read_world({})
    assert (world.rank, world.size, world.launcher) == (0, 1, "none")
    assert world.is_master


def test_torchrun_names_are_read() -> None:
    assert read_world({**TORCHRUN, "DTO_NODE": "n1"}) == World(3, 4, 1, 2, 1, "n1", "torchrun")


def test_horovod_names_are_read() -> None:
    env = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_LOCAL_RANK": "1"}
    env |= {"HOROVOD_GLOO_RENDEZVOUS_ADDR": "127.0.0.1", "HOROVOD_GLOO_RENDEZVOUS_PORT": "1"}
    assert (read_world(env).rank, read_world(env).size) == (1, 2)


def test_a_step_of_srun_is_a_world_and_a_batch_script_is_not() -> None:
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_LOCALID": "0"}
    assert read_world(batch).size == 1
    step = {**batch, "SLURM_STEP_ID": "0", "MASTER_ADDR": "r1", "MASTER_PORT": "12345"}
    assert (read_world(step).size, read_world(step).launcher) == (2, "srun")


@pytest.mark.parametrize("missing", ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"])
def test_a_half_set_environment_names_what_is_missing(missing: str) -> None:
    env = {name: value for name, value in TORCHRUN.items() if name != missing}
    with pytest.raises(WorldError, match=f"without {missing}"):
        read_world(env)


def test_senseless_numbers_are_refused() -> None:
    with pytest.raises(WorldError, match="RANK=4 does not fit WORLD_SIZE=4"):
        read_world({**TORCHRUN, "RANK": "4"})
    with pytest.raises(WorldError, match="not a whole number"):
        read_world({**TORCHRUN, "WORLD_SIZE": "two"})


def test_checkpoint_intervals() -> None:
    assert parse_every("200steps") == parse_every(200) == Every(steps=200)
    assert parse_every("15m") == Every(seconds=900)
    assert parse_every(None) == Every()
    assert Every(steps=5).is_step_due(10) and not Every(steps=5).is_step_due(11)
    assert Every(seconds=5).is_time_due(5.1) and not Every().is_time_due(1e9)
    for wrong in ("soon", "0steps", "15 parsecs", "-3"):
        with pytest.raises(UsageError, match="200steps"):
            parse_every(wrong)
