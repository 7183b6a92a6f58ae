"""node.pyz: what runs on the hosts of a cluster, by their own Python."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from dto.cluster.node import (
    archive,
    configuration,
    gate,
    guard,
    head,
    health,
    inspect_node,
    probes,
    retire,
    spot,
    verify,
)
from dto.cluster.node.errors import NodeError
from dto.cluster.node.facts import PATH, Node, memory_mib, node_line, read_node

_Command = Callable[[Node, argparse.Namespace], int]


def _say(words: str) -> int:
    print(words, flush=True)
    return 0


def _verify(node: Node, options: argparse.Namespace) -> int:
    found = verify.verify(node, options.nodes, options.minimum_gbps, options.limit)
    report = found.to_json(set(found.gpus) | set(found.problems))
    print(json.dumps(report) if options.json else "\n".join(verify.summary(report)))
    return 1 if report["problems"] else 0


def _inspect(node: Node, options: argparse.Namespace) -> int:
    if options.write:
        return _say(json.dumps(inspect_node.write(node, options.write)))
    return _say(json.dumps(inspect_node.read(node, options.read, options.others)))


def _pair(node: Node, options: argparse.Namespace) -> int:
    places = dict(place.split("=", 1) for place in options.places)
    return _say(json.dumps(inspect_node.reduce_pair(node, places)))


def _retire(node: Node, options: argparse.Namespace) -> int:
    if options.delete:
        return _say(retire.delete(options.node))
    if options.undo:
        return _say(retire.bring_back(options.node))
    return _say(retire.empty(options.node, options.why, options.limit, node.peer_port))


def _spot(node: Node, options: argparse.Namespace) -> int:
    if options.shutdown:
        return spot.shutdown(node)
    spot.watch(node)
    return 0


def _guard(node: Node, options: argparse.Namespace) -> int:
    if options.report:
        return _say(guard.say(node))
    if options.release:
        return _say(guard.release())
    guard.serve(node)
    return 0


def _probe_shared(options: argparse.Namespace) -> int:
    probes.probe_shared(Path(options.folder), options.is_mount == "1")
    return 0


def _check_conf(options: argparse.Namespace) -> int:
    configuration.check(options.file)
    return 0


def _backup(options: argparse.Namespace) -> int:
    facts = {"cluster": options.cluster, "head": os.uname().nodename}
    saved = archive.save(options.archive, options.places, facts)
    return _say(f"saved {saved}")


def _restore(options: argparse.Namespace) -> int:
    facts = archive.restore(options.archive, options.cluster)
    made = datetime.fromtimestamp(facts["made"]).isoformat(" ", "minutes")
    return _say(f"restored what {facts.get('head', 'the head')} had at {made}")


def _line(node: Node) -> int:
    memory = memory_mib(Path("/proc/meminfo").read_text())
    return _say(f"NodeName={node.name} CPUs={os.cpu_count()} {node_line(node, memory)}")


# What needs this host's facts, and what needs none.
_WITH_NODE: dict[str, _Command] = {
    "gate": lambda node, options: gate.run_gate(node, options.patience),
    "health": lambda node, options: health.check(node),
    "peer": lambda node, options: head.serve(node) or 0,  # type: ignore[func-returns-value]
    "verify": _verify,
    "inspect": _inspect,
    "pair": _pair,
    "retire": _retire,
    "spot": _spot,
    "guard": _guard,
    "line": lambda node, options: _line(node),
}
_ALONE: dict[str, Callable[[argparse.Namespace], int]] = {
    "probe-shared": _probe_shared,
    "check-conf": _check_conf,
    "backup": _backup,
    "restore": _restore,
}


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(prog="node.pyz", description=__doc__)
    top.add_argument("--facts", type=Path, default=PATH, help=argparse.SUPPRESS)
    commands = top.add_subparsers(dest="command", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text)

    add("gate", "wait until this host may take jobs").add_argument(
        "--patience", type=float, default=60, help="seconds until it gives up for now"
    )
    add("health", "drain this node if it is ill, take that drain back if not")
    add("peer", "answer the other hosts; on the head also hurry dto's requeued jobs")
    add("line", "print this node as a line of slurm.conf")
    one = add("verify", "test the nodes that no job runs on, drain those that fail")
    one.add_argument("nodes", nargs="*")
    one.add_argument("--minimum-gbps", type=float, default=0.0)
    one.add_argument("--limit", type=float, default=120, help="seconds for each job step")
    one.add_argument("--json", action="store_true")
    one = add("inspect", "what verify runs inside a job")
    one.add_argument("--write", metavar="TOKEN")
    one.add_argument("--read", metavar="TOKEN")
    one.add_argument("others", nargs="*")
    add("pair", "what verify runs on two nodes").add_argument("places", nargs=2)
    one = add("retire", "empty a node: its jobs save and go on elsewhere")
    one.add_argument("node")
    one.add_argument("--limit", type=float, default=600, help="seconds for jobs to leave")
    one.add_argument("--why", default="removing")
    one.add_argument("--delete", action="store_true", help="take the empty node out of SLURM")
    one.add_argument("--undo", action="store_true", help="let it take jobs again")
    add("spot", "leave this node once the cloud wants it back").add_argument(
        "--shutdown", action="store_true", help="the machine goes down: leave now"
    )
    one = add("guard", "count what the cluster costs, and keep it within its budget")
    one.add_argument("--report", action="store_true", help="print what was used, as JSON")
    one.add_argument("--release", action="store_true", help="take the guard's drains back")
    one = add("probe-shared", "write and read in the shared folder")
    one.add_argument("folder")
    one.add_argument("is_mount", choices=("0", "1"))
    add("check-conf", "have SLURM read a slurm.conf").add_argument("file", type=Path)
    one = add("backup", "save SLURM's state, the munge key and the database")
    one.add_argument("archive", type=Path)
    one.add_argument("places", nargs="+", type=Path)
    one.add_argument("--cluster", required=True, help="whose they are")
    one = add("restore", "put them back; the daemons are stopped")
    one.add_argument("archive", type=Path)
    one.add_argument("--cluster", required=True, help="whose they must be")
    return top


def main(argv: list[str] | None = None) -> int:
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    options = parser().parse_args(argv)
    try:
        if options.command in _ALONE:
            return _ALONE[options.command](options)
        return _WITH_NODE[options.command](read_node(options.facts), options)
    except NodeError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except PermissionError as error:
        print(f"error: {error.filename}: run this as root", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
