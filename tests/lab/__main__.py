"""Labs by hand: up, ls, ssh, kill, start, reboot, cut, mend, down."""

from __future__ import annotations

import argparse
import os
import sys

from tests.lab.commands import LabError
from tests.lab.lab import Lab, names


def _up(lab: Lab, options: argparse.Namespace) -> None:
    lab.down()
    try:
        lab.create(options.hosts.split(","), release=options.release, gpus=options.gpus,
                   wheels=options.wheels)  # fmt: skip
    except BaseException:
        lab.down()
        raise
    _list(lab)
    print(f"key: {lab.key}\nknown hosts: {lab.known_hosts}")


def _list(lab: Lab) -> None:
    for name in lab.hosts:
        host = lab.host(name)
        print(f"{lab.name}\t{name}\t{host.address}\t{'up' if host.leader() else 'down'}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="lab.sh", description=__doc__)
    parser.add_argument("--lab", default="lab", help="which lab (default: lab)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="make a lab and boot its hosts")
    up.add_argument("--hosts", default="head,node-1,node-2")
    up.add_argument("--release", default="bookworm", help="bookworm, trixie or noble")
    up.add_argument("--gpus", type=int, default=0, help="fake GPUs on each host")
    up.add_argument("--wheels", action="store_true", help="torch, Horovod and more in /wheels")
    add = commands.add_parser("add", help="boot one more bare host")
    add.add_argument("host")
    add.add_argument("--gpus", type=int, default=0)
    ssh = commands.add_parser("ssh", help="log in to a host, or run a command there")
    ssh.add_argument("host")
    ssh.add_argument("remote", nargs=argparse.REMAINDER)
    for name, text in (("kill", "take a host's power away"), ("start", "boot it again"),
                       ("reboot", "shut it down and boot it"), ("cut", "pull its cable"),
                       ("mend", "put it back")):  # fmt: skip
        commands.add_parser(name, help=text).add_argument("host")
    commands.add_parser("ls", help="what runs")
    commands.add_parser("down", help="remove every trace")
    options = parser.parse_args()
    lab = Lab(options.lab)
    if options.command == "up":
        _up(lab, options)
    elif options.command == "ls":
        for name in names():
            _list(Lab(name))
    elif options.command == "ssh":
        argv = lab.ssh_command(options.host)
        os.execvp(argv[0], [*argv, *options.remote])
    elif options.command == "add":
        lab.add([options.host], gpus=options.gpus)
    elif options.command == "down":
        lab.down()
    else:
        getattr(lab, options.command)(options.host)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
