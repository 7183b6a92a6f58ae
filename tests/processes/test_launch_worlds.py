"""Scripts that know only torchrun or Horovod find their world under dto.launch."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.processes.launching import finish, make_run, result

TORCHRUN_STYLE = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
print("sum", total.item(), "local", os.environ["LOCAL_RANK"], "node", os.environ["GROUP_RANK"])
dist.destroy_process_group()
"""
HOROVOD_STYLE = """
import torch, horovod.torch as hvd
hvd.init()
total = hvd.allreduce(torch.tensor([float(hvd.rank() + 1)]), op=hvd.Sum)
print("sum", total.item(), "local", hvd.local_rank(), "cross", hvd.cross_rank(), hvd.cross_size())
"""


def logs(path: Path) -> list[str]:
    return [p.read_text().strip() for p in sorted(path.glob("attempt-1/rank-*.g0.log"))]


def test_a_torchrun_script_joins_one_world(tmp_path: Path) -> None:
    run = make_run(tmp_path, TORCHRUN_STYLE)
    done = finish(run)
    assert done.returncode == 0, done.stderr
    assert logs(run.path) == ["sum 3.0 local 0 node 0", "sum 3.0 local 1 node 0"]
    assert "[1] sum 3.0 local 1 node 0\n" in done.stdout


def test_agents_of_two_nodes_make_one_world(tmp_path: Path) -> None:
    run = make_run(tmp_path, TORCHRUN_STYLE, nodes=2, ranks_per_node=2)
    done = finish(run)
    assert done.returncode == 0, done.stderr
    assert [line.split()[-3:] for line in logs(run.path)] == [
        [str(local), "node", str(node)] for node in (0, 1) for local in (0, 1)
    ]
    assert "Traceback" not in done.stderr


@pytest.mark.horovod
@pytest.mark.parametrize(("nodes", "ranks"), [(1, 2), (3, 1)])
def test_a_horovod_script_joins_one_world(tmp_path: Path, nodes: int, ranks: int) -> None:
    run = make_run(tmp_path, HOROVOD_STYLE, nodes=nodes, ranks_per_node=ranks, backend="horovod")
    done = finish(run)
    assert done.returncode == 0, done.stderr
    world = nodes * ranks
    total = world * (world + 1) / 2
    assert logs(run.path) == [
        f"sum {total} local {rank % ranks} cross {rank // ranks} {nodes}" for rank in range(world)
    ]


def test_arguments_arrive_byte_for_byte(tmp_path: Path) -> None:
    raw = [b"a b", b"", b"$(id)", b"'\"", b"\xff\xfe", "größe".encode(), b"new\nline", b"--flag=x"]
    args = [os.fsdecode(item) for item in raw]
    script = "import os, sys\nprint([os.fsencode(a).hex() for a in sys.argv[1:]])\n"
    run = make_run(tmp_path, script, ranks_per_node=1, args=args)
    assert finish(run).returncode == 0
    assert logs(run.path) == [str([item.hex() for item in raw])]


def test_a_module_comes_from_the_code_copy_not_from_where_one_stands(tmp_path: Path) -> None:
    for place in ("copy", "here"):
        (tmp_path / place).mkdir()
        text = f"import os, sys\nprint('{place}', os.getcwd(), sys.argv[1:])\n"
        (tmp_path / place / "train.py").write_text(text)
    where = {"code": str(tmp_path / "copy"), "cwd": str(tmp_path / "here")}
    run = make_run(
        tmp_path, "", script=None, module="train", args=["-x"], ranks_per_node=1, **where
    )
    assert finish(run).returncode == 0
    assert logs(run.path) == [f"copy {tmp_path}/here ['-x']"]


def test_ranks_find_the_whole_table_and_no_secret(tmp_path: Path) -> None:
    script = "import json, os\nprint(json.dumps(dict(os.environ)))\n"
    run = make_run(tmp_path, script, env={"MINE": "a=b c", "RANK": "7", "OMP_NUM_THREADS": "5"})
    assert finish(run).returncode == 0
    env = json.loads(logs(run.path)[1])
    assert (env["RANK"], env["WORLD_SIZE"], env["HOROVOD_RANK"]) == ("1", "2", "1")
    assert (env["MINE"], env["OMP_NUM_THREADS"]) == ("a=b c", "5")
    assert env["MASTER_ADDR"] == "127.0.0.1" and env["GLOO_SOCKET_IFNAME"] == "lo"
    assert env["DTO_RUN_DIR"] == str(run.path) and env["DTO_SOCKET"]
    assert not {"DTO_TOKEN", "DTO_COORDINATOR"} & set(env)


def test_files_beside_the_script_do_not_shadow_our_modules(tmp_path: Path) -> None:
    (tmp_path / "asyncio.py").write_text("raise SystemExit('the wrong asyncio')\n")
    run = make_run(tmp_path, "print('fine')\n")
    assert finish(run).returncode == 0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"python": "/nowhere/python"}, "cannot start /nowhere/python"),
        ({"python": "/bin/echo"}, "no working Python"),
        ({"script": "/nowhere/train.py"}, "cannot read /nowhere/train.py"),
        ({"cwd": "/nowhere"}, "has no directory /nowhere"),
    ],
)
def test_a_node_that_cannot_run_it_is_named_before_any_rank_starts(
    tmp_path: Path, values: dict[str, str], words: str
) -> None:
    run = make_run(tmp_path, "print('ran')\n", **values)
    done = finish(run)
    assert done.returncode == 5
    assert words in done.stderr and "Traceback" not in done.stderr
    assert result(run)["verdict"]["kind"] == "start-failed"
    assert not list(run.path.glob("attempt-1/rank-*"))


def test_too_long_an_argument_is_a_failed_start(tmp_path: Path) -> None:
    run = make_run(tmp_path, "print('ran')\n", args=["x" * 300_000], python=sys.executable)
    done = finish(run)
    assert done.returncode == 127
    assert "Argument list too long" in done.stderr
