"""Looks at all hosts at once before anything changes: reachable, known, root, and who they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from dto.cluster.inventory import DtoCluster
from dto.cluster.inventory_hosts import Host as Member
from dto.errors import ClusterError, PreflightError
from dto.remote.errors import HostKeyChanged, RemoteError, UnknownHostKey
from dto.remote.host import Host

_AT_ONCE = 16
_SECONDS = 30.0

# No Python is needed on the host for this, and nothing is written there.
_PROBE = r"""
echo "hostname $(cat /proc/sys/kernel/hostname)"
echo "boot_id $(cat /proc/sys/kernel/random/boot_id)"
if [ "$(id -u)" = 0 ]; then echo "sudo root"
elif said=$(LC_ALL=C sudo -n true 2>&1); then echo "sudo yes"
else echo "sudo no $said"; fi
echo "user $(id -un)"
files=0; cards=0
for file in /dev/nvidia[0-9]*; do [ -c "$file" ] && files=$((files + 1)); done
for card in /sys/bus/pci/devices/*; do
  [ "$(cat "$card/vendor" 2>/dev/null)" = 0x10de ] || continue
  case $(cat "$card/class") in 0x0300* | 0x0302*) cards=$((cards + 1)) ;; esac
done
echo "gpus $((files > cards ? files : cards))"
echo "cgroup $(stat -fc %T /sys/fs/cgroup)"
for file in /etc/ssh/ssh_host_*_key.pub; do
  [ -r "$file" ] && echo "host_key $(cut -d ' ' -f 1,2 "$file")"
done
:
"""
_HOST_KEY_TYPES = ("ssh-ed25519 ", "ecdsa-sha2-nistp", "ssh-rsa ")

Connect = Callable[[Member], Host]


@dataclass(frozen=True)
class Probe:
    """What a host says of itself."""

    hostname: str
    boot_id: str
    is_root: bool
    user: str = ""
    sudo_words: str = ""
    gpus: int = 0
    host_keys: tuple[str, ...] = ()
    has_cgroup_v2: bool = True


@dataclass
class Look:
    """What came of looking at hosts, each by the name that the record gives it."""

    probes: dict[str, Probe] = field(default_factory=dict)
    unreachable: dict[str, str] = field(default_factory=dict)
    unknown: dict[str, UnknownHostKey] = field(default_factory=dict)
    changed: dict[str, HostKeyChanged] = field(default_factory=dict)

    def take(self, later: Look) -> None:
        """Add what a second look at some of the hosts found; only it knows what is unknown."""
        self.probes |= later.probes
        self.unreachable |= later.unreachable
        self.changed |= later.changed
        self.unknown = later.unknown


def look(members: Iterable[Member], connect: Connect) -> Look:
    """Probe hosts side by side; nothing is raised for any of them."""
    found = Look()
    hosts = list(members)
    with ThreadPoolExecutor(max_workers=_AT_ONCE) as pool:
        for member, answer in zip(hosts, pool.map(lambda m: _try(m, connect), hosts), strict=True):
            _sort(found, member.name, answer)
    return found


def _try(member: Member, connect: Connect) -> Probe | RemoteError:
    try:
        with connect(member) as host:
            return probe(host)
    except RemoteError as error:
        return error


def _sort(found: Look, name: str, answer: Probe | RemoteError) -> None:
    if isinstance(answer, Probe):
        found.probes[name] = answer
    elif isinstance(answer, UnknownHostKey):
        found.unknown[name] = answer
    elif isinstance(answer, HostKeyChanged):
        found.changed[name] = answer
    else:
        found.unreachable[name] = str(answer)


def probe(host: Host) -> Probe:
    done = host.run(["sh", "-c", _PROBE], timeout=_SECONDS)
    facts = dict(line.partition(" ")[::2] for line in done.out.splitlines() if " " in line)
    if not done.is_ok or "hostname" not in facts or "sudo" not in facts:
        words = (done.err or done.out or "it said nothing").strip().splitlines()
        raise RemoteError(f"{host.name} does not answer as a Linux host would: {words[-1]}")
    verdict, _, words_of_sudo = facts["sudo"].partition(" ")
    gpus = facts.get("gpus", "0")
    keys = [line[9:] for line in done.out.splitlines() if line.startswith("host_key ")]
    return Probe(
        hostname=facts["hostname"].partition(".")[0],
        boot_id=facts.get("boot_id", ""),
        is_root=verdict in ("root", "yes"),
        user=facts.get("user", ""),
        sudo_words=words_of_sudo,
        gpus=int(gpus) if gpus.isdigit() else 0,
        host_keys=tuple(sorted(key for key in keys if key.startswith(_HOST_KEY_TYPES))),
        has_cgroup_v2=facts.get("cgroup", "cgroup2fs") == "cgroup2fs",
    )


def refuse_changed_keys(found: Look) -> None:
    """Refuse to go on where a host shows another key than it had: somebody may be in between."""
    if found.changed:
        raise next(iter(found.changed.values()))


def unknown_keys(found: Look) -> dict[str, list[str]]:
    """Return address -> keys as the record lists them, of hosts that nobody has vouched for."""
    keys: dict[str, list[str]] = {}
    for error in found.unknown.values():
        found_key = f"{error.key_type} {error.key}"
        if found_key not in keys.setdefault(error.address, []):
            keys[error.address].append(found_key)
    return keys


def question(found: Look) -> str:
    """Return what a person is asked before unknown host keys are trusted."""
    rows = [
        f"  {name} ({error.address}): {error.key_type} {error.fingerprint}"
        for name, error in found.unknown.items()
    ]
    lines = ["these hosts show keys that are not known yet:", *rows, "are they the right ones?"]
    return "\n".join(lines)


def refusal_of_unknown_keys(found: Look) -> ClusterError:
    errors = list(found.unknown.values())
    shown = ", ".join(f"{e.address} {e.key_type} {e.fingerprint}" for e in errors[:4])
    more = f" and {len(errors) - 4} more" if len(errors) > 4 else ""
    return ClusterError(
        f"nobody has vouched for the host key of {shown}{more}: put it under host_keys, or run"
        " this on a terminal and confirm it, or give --accept-new-host-keys"
    )


def judge(record: DtoCluster, found: Look) -> None:
    """Raise where nothing can be set up: no head, no root rights, two hosts that are one.

    Nodes that cannot be reached are not the end: they are left out.
    """
    if reason := found.unreachable.get(record.head.name):
        raise ClusterError(f"the head: {reason}; nothing was changed")
    for name, seen in found.probes.items():
        if not seen.is_root:
            words = seen.sudo_words.splitlines()[-1] if seen.sudo_words else "sudo refused"
            raise PreflightError(
                f"{name}: {seen.user} may not become root without a password ({words}): give it"
                " `NOPASSWD: ALL` in sudoers, or log in as another --user; nothing was changed"
            )
    _refuse_same(found.probes)


def _refuse_same(probes: Mapping[str, Probe]) -> None:
    seen: dict[str, str] = {}
    for name, found in probes.items():
        # containers on one machine share its boot id, so both must be the same
        key = f"{found.boot_id} {found.hostname}"
        if key in seen:
            raise PreflightError(
                f"{seen[key]} and {name} are one machine, or two with the name"
                f" {found.hostname!r}: name each host once, and each its own; nothing was changed"
            )
        seen[key] = name


def names_by_address(members: Sequence[Member], found: Look) -> dict[str, str]:
    """Return address -> own host name; two hosts with one name are refused in plain words."""
    taken: dict[str, str] = {}
    names: dict[str, str] = {}
    for member in members:
        if member.name not in found.probes:
            continue
        own = found.probes[member.name].hostname
        if own.lower() in taken:
            raise PreflightError(
                f"{taken[own.lower()]} and {member.address} both call themselves {own!r}: give each"
                " its own name (hostnamectl set-hostname); nothing was changed"
            )
        taken[own.lower()] = member.address
        names[member.address] = own
    return names
