"""A lab's own network: a bridge, addresses that collide with nobody's, and a way out by NAT."""

from __future__ import annotations

import fcntl
import ipaddress
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.commands import LabError, run

_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")


@dataclass(frozen=True)
class Network:
    """Everything here is named after the lab's tag, so that it can be found without a record."""

    tag: str
    subnet: str

    @property
    def bridge(self) -> str:
        return f"br-{self.tag}"

    @property
    def table(self) -> str:
        return f"dto_lab_{self.tag}"

    @property
    def gateway(self) -> str:
        return self.address(1)

    def address(self, number: int) -> str:
        return str(ipaddress.ip_network(self.subnet)[number])

    def link(self, number: int) -> str:
        """The outer end of a host's cable, as systemd-nspawn names it."""
        return f"vb-{self.tag}-{number}"

    def up(self) -> None:
        prefix = ipaddress.ip_network(self.subnet).prefixlen
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "address", "add", f"{self.gateway}/{prefix}", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")
        _FORWARD.write_text("1")
        rules = f"""table ip {self.table} {{
            chain post {{
                type nat hook postrouting priority srcnat;
                ip saddr {self.subnet} ip daddr != {self.subnet} masquerade
            }}
        }}"""
        run("nft", "-f", "-", text=rules)
        # A firewall that drops what it does not know (Docker's) must know the lab's packets.
        if run("nft", "list", "chain", "ip", "filter", "FORWARD", check=False).returncode == 0:
            for side in ("iifname", "oifname"):
                run("nft", "insert", "rule", "ip", "filter", "FORWARD", side, self.bridge,
                    "accept", "comment", f'"{self.table}"')  # fmt: skip

    def down(self) -> None:
        run("nft", "delete", "table", "ip", self.table, check=False)
        listed = run("nft", "-a", "list", "chain", "ip", "filter", "FORWARD", check=False).stdout
        for line in listed.splitlines():
            if f'"{self.table}"' in line:
                handle = line.rsplit("handle ", 1)[1]
                run("nft", "delete", "rule", "ip", "filter", "FORWARD", "handle", handle)
        for link in json.loads(run("ip", "-j", "link").stdout or "[]"):
            name = link.get("ifname", "")
            if name == self.bridge or name.startswith(f"vb-{self.tag}-"):
                run("ip", "link", "delete", name, check=False)


def free_subnet(taken: list[str]) -> str:
    """A /24 that neither another lab nor a route of this machine uses."""
    routes = json.loads(run("ip", "-j", "-4", "route").stdout or "[]")
    used = [
        ipaddress.ip_network(text, strict=False)
        for text in [*taken, *(route["dst"] for route in routes if route["dst"] != "default")]
    ]
    for third in range(77, 256):
        candidate = ipaddress.ip_network(f"10.77.{third}.0/24")
        if not any(candidate.overlaps(other) for other in used):
            return str(candidate)
    raise LabError("no free subnet in 10.77.0.0/16")


@contextmanager
def registry(root: Path) -> Iterator[None]:
    """One process at a time adds or removes labs."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with open(root.with_name(root.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Only now: the last lab of another process takes the folder away as it goes.
        root.mkdir(mode=0o700, exist_ok=True)
        yield


def remember_forwarding(root: Path) -> None:
    """Keep what the machine had before the first lab."""
    kept = root / "ip_forward"
    if not kept.exists():
        kept.write_text(_FORWARD.read_text())


def restore_forwarding(root: Path) -> None:
    """Put back what the machine had, once the last lab is gone."""
    kept = root / "ip_forward"
    if kept.exists():
        _FORWARD.write_text(kept.read_text())
        kept.unlink()
