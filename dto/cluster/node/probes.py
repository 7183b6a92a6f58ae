"""What can be wrong with this host by itself: each probe returns problems in words, or none."""

from __future__ import annotations

import os
import secrets
import socket
import stat
import sys
from pathlib import Path

from dto.cluster.node.commands import run
from dto.cluster.node.errors import NodeError
from dto.cluster.node.facts import Node

_SHARED_SECONDS = 20.0
_HOME = Path(__file__).parents[3]
"""Where Python finds this program: node.pyz, or a checkout."""
_ITSELF = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); "
    "from dto.cluster.node.__main__ import main; sys.exit(main())"
)
_FATAL_XIDS = {48, 62, 64, 74, 79, 92, 94, 95, 109, 119, 120, 140}
"""Xid numbers after which NVIDIA's list says: drain, reset or replace."""


def gpu_files(node: Node) -> list[str]:
    """Look for the device files of the GPUs that this node offers to SLURM."""
    missing = [path for path in node.gpu_files if not _is_device(path)]
    if not missing:
        return []
    return [f"{len(node.gpu_files) - len(missing)} of {node.gpus} GPUs: no {' '.join(missing)}"]


def gpus_listed(node: Node) -> list[str]:
    """Count with NVIDIA's driver, where its tool is installed and the GPUs are NVIDIA's."""
    if not node.gpus or not all(path.startswith("/dev/nvidia") for path in node.gpu_files):
        return []
    done = run("nvidia-smi", "--query-gpu=index", "--format=csv,noheader", timeout=30)
    if done.code == 127:
        return []
    if done.code:
        return [f"nvidia-smi: {done.said}"]
    count = len(done.out.split())
    return [f"nvidia-smi lists {count} of {node.gpus} GPUs"] if count < node.gpus else []


def gpu_errors(node: Node) -> list[str]:
    """Look for uncorrected memory errors and for Xids that end a GPU's work until a reset."""
    if not node.gpus:
        return []
    query = "--query-gpu=index,ecc.errors.uncorrected.volatile.total,remapped_rows.failure"
    done = run("nvidia-smi", query, "--format=csv,noheader,nounits", timeout=30)
    found = ecc_problems(done.out) if done.code == 0 else []
    if done.code == 127:
        return found
    kernel = run("dmesg", "--level=err,warn,notice", "--notime", timeout=10)
    return found + xid_problems(kernel.out if kernel.code == 0 else "")


def ecc_problems(table: str) -> list[str]:
    """Read nvidia-smi's rows: index, uncorrected errors, failed row remapping."""
    found = []
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 3 and cells[1].isdigit() and int(cells[1]) > 0:
            found.append(f"GPU {cells[0]} has {cells[1]} uncorrected memory errors")
        elif len(cells) == 3 and cells[2] in ("Yes", "1"):
            found.append(f"GPU {cells[0]} cannot remap its bad memory")
    return found


def xid_problems(kernel_log: str) -> list[str]:
    found = {}
    for line in kernel_log.splitlines():
        _, mark, rest = line.partition("NVRM: Xid (")
        device, _, words = rest.partition("): ")
        number = words.partition(",")[0].strip()
        if mark and number.isdigit() and int(number) in _FATAL_XIDS:
            found[device.removeprefix("PCI:")] = int(number)
    return [f"GPU {device} reported Xid {number}" for device, number in found.items()]


def memory_lock() -> list[str]:
    """Look at what slurmd's jobs will be allowed to lock: RDMA needs all of it."""
    done = run("systemctl", "show", "--property=LimitMEMLOCK", "--value", "slurmd.service")
    limit = done.out.strip()
    if done.code == 0 and limit in ("infinity", "18446744073709551615"):
        return []
    return [f"slurmd's jobs may lock only {limit or 'an unknown part'} of the memory"]


def shared_folder(node: Node) -> list[str]:
    """Write, fsync and read a file of ours; in a child, since a dead server hangs whoever asks."""
    words = ("probe-shared", node.shared, str(int(node.shared_is_mount)))
    done = run(sys.executable, "-c", _ITSELF, str(_HOME), *words, timeout=_SHARED_SECONDS)
    if done.code == 124:
        return [f"{node.shared} does not answer within {_SHARED_SECONDS:g} s"]
    return [done.said.removeprefix("error: ")] if done.code else []


def probe_shared(folder: Path, is_mount: bool) -> None:
    """Try the shared folder out.

    Raises:
        NodeError: it is not mounted, or what was written is not what is read.
    """
    try:
        (folder / "dto/mark").read_bytes()
        if is_mount and not os.path.ismount(folder):
            raise NodeError(f"{folder} is not mounted")
        _write_and_read(folder / "dto/probe")
    except OSError as error:
        raise NodeError(f"{folder} cannot be used: {error.strerror} ({error.filename})") from None


def _write_and_read(folder: Path) -> None:
    data = secrets.token_bytes(64 * 1024)
    # Everybody may write in there: a name that nobody can guess, and no link is followed.
    path = folder / f"{os.uname().nodename}-{secrets.token_hex(8)}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "r+b") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
            file.seek(0)
            if file.read() != data:
                raise NodeError(f"{folder} gave back other bytes than were written")
    finally:
        os.unlink(path)


def is_on(address: str, ports: tuple[int, ...]) -> bool:
    """Tell whether a machine is there: it takes a connection, or refuses it."""
    for port in ports:
        try:
            socket.create_connection((address, port), timeout=2).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            continue
        return True
    return False


def up_seconds(root: Path = Path("/proc")) -> float:
    """Return how long this host has been up: as long as its first process, also in a container."""
    began = int((root / "1/stat").read_text().rpartition(")")[2].split()[19])
    up = float((root / "uptime").read_text().split()[0])
    return up - began / os.sysconf("SC_CLK_TCK")


def mark(node: Node) -> str:
    """Return what tells this shared folder from every other one."""
    return (Path(node.shared) / "dto/mark").read_bytes().hex()


def _is_device(path: str) -> bool:
    try:
        return stat.S_ISCHR(os.stat(path).st_mode)
    except OSError:
        return False
