"""What a node says of itself, from folders like the kernel's."""

from __future__ import annotations

from pathlib import Path

from dto.runtime.machine import describe_machine
from dto.runtime.topology import Topology, choose


def card(net: Path, name: str, **files: str) -> None:
    (net / name).mkdir(parents=True)
    for file, text in files.items():
        (net / name / file).write_text(f"{text}\n")


def test_cards_are_named_fastest_first_and_what_is_no_device_is_left_out(tmp_path: Path) -> None:
    card(tmp_path, "eth0", device="", operstate="up", speed="25000")
    card(tmp_path, "ib0", device="", operstate="up", speed="400000")
    card(tmp_path, "eth1", device="", operstate="down", speed="10000")
    card(tmp_path, "ens3", device="", operstate="up", speed="-1")
    card(tmp_path, "lo", operstate="unknown")
    gpus = ["NVIDIA H100", "NVIDIA H100"]
    found = describe_machine(tmp_path, gpus)
    assert found == "2 x NVIDIA H100, ib0 400 Gbit/s, eth0 25 Gbit/s, ens3 of unknown speed"
    assert describe_machine(tmp_path / "none", []) == "no GPU"


def test_the_reason_of_a_choice_names_nodes_and_what_they_have() -> None:
    machines = {"a": "no GPU, eth0 10 Gbit/s", "b": "no GPU, eth0 10 Gbit/s"}
    _, reason = choose(1 << 20, Topology(("a", "a", "b", "b"), machines=machines))
    assert "4 ranks on 2 nodes (a, b: no GPU, eth0 10 Gbit/s)" in reason
    other = {**machines, "b": "1 x T4"}
    _, reason = choose(1 << 20, Topology(("a", "b"), machines=other))
    assert "2 ranks on 2 nodes (a: no GPU, eth0 10 Gbit/s; b: 1 x T4)" in reason
