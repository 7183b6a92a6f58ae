"""What single values of a cluster's record may be, each refusal in plain words."""

from __future__ import annotations

import ipaddress
import re
import string
from typing import Any

from dto.config.durations import parse_time_limit, slurm_time

_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_TYPE = re.compile(rf"{_WORD.pattern}(/{_WORD.pattern})?")
_PARAMETER = re.compile(r"(/[A-Za-z0-9_.-]{1,63}){1,8}")
_CLUSTER = re.compile(r"[a-z]([a-z0-9-]{0,30}[a-z0-9])?")
_LOGIN = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
_RESERVED_HOSTS = {"all", "cluster", "default", "localhost", "nodes", "ungrouped"}
"""Names that SLURM or Ansible give a meaning of their own."""
_SYSTEM_USERS = set(
    "root daemon bin sys sync games man lp mail news uucp proxy www-data backup list irc gnats "
    "nobody nogroup sshd messagebus munge slurm mysql syslog _apt _chrony chrony statd tcpdump "
    "prometheus grafana postgres dto".split()
)
_OWN_TREES = ("/bin", "/boot", "/dev", "/etc", "/lib", "/proc", "/run", "/sbin", "/sys", "/usr")
_OWN_FOLDERS = {"/", "/home", "/root", "/opt", "/mnt", "/srv", "/tmp", "/var", "/var/tmp"}
_SOURCES = {
    "efs": "fs-0123456789abcdef0",
    "fsx-lustre": "fs-0123456789abcdef0.fsx.eu-north-1.amazonaws.com@tcp:/abcdefgh",
    "virtiofs": "the filesystem's mount tag",
}
POWER_FIELDS = ("name", "address", "instance_id", "group")

OWNED_SETTINGS: dict[str, str] = {
    "clustername": "it is `name`",
    "slurmctldhost": "it is `head`",
    "controlmachine": "it is `head`",
    "controladdr": "it is `head`",
    "nodename": "they are `nodes`",
    "nodeset": "they are `node_groups`",
    "partitionname": "they are `node_groups`",
    "maxnodecount": "it is `slurm.max_nodes`",
    "proctracktype": "it is `slurm.proctrack`",
    "taskplugin": "it is `slurm.task_plugin`",
    "accountingstoragetype": "it is `slurm.accounting`",
    "accountingstoragehost": "it is `slurm.accounting`",
    "authtype": "dto sets it",
    "cryptotype": "dto sets it",
    "credtype": "dto sets it",
    "slurmuser": "dto sets it",
    "slurmduser": "dto sets it",
    "statesavelocation": "dto sets it, `dto cluster backup` saves it",
    "slurmdspooldir": "dto sets it",
    "grestypes": "dto sets it",
    "include": "other files would not reach the nodes",
}
"""slurm.conf's keys that the record says in its own words, in small letters."""


def cluster_name(value: str) -> str:
    if not _CLUSTER.fullmatch(value):
        raise ValueError(
            f"{value!r} must be 1 to 32 small letters, digits and '-', and start with a letter"
        )
    return value


def host_name(value: str) -> str:
    if not _LABEL.fullmatch(value) or value.isdigit():
        near = re.sub(r"[^A-Za-z0-9-]+", "-", value.partition(".")[0]).strip("-")[:63]
        hint = f"; write {near!r}" if near and not near.isdigit() and near != value else ""
        raise ValueError(
            f"{value!r} cannot be a host's name: 1 to 63 letters, digits and '-', no dots{hint}"
        )
    if value.lower() in _RESERVED_HOSTS:
        raise ValueError(f"{value!r} has a meaning of its own to SLURM or Ansible; take another")
    return value


def address(value: str) -> str:
    """An IP address or a host name that resolves; never a URL, a port or a user."""
    if "@" in value:
        raise ValueError(f"{value!r}: write the address alone; the user goes under ssh.user")
    if re.fullmatch(r"[^:]+:\d+", value):
        raise ValueError(f"{value!r}: write the address alone; the port goes under ssh.port")
    try:
        number = ipaddress.ip_address(value)
    except ValueError:
        labels = value.removesuffix(".").split(".")
        is_name = all(_LABEL.fullmatch(label) for label in labels) and len(value) <= 253
        if is_name and not labels[-1].isdigit():
            return value
        raise ValueError(f"{value!r} is neither an IP address nor a host name") from None
    if number.is_unspecified or number.is_multicast or value == "255.255.255.255":
        raise ValueError(f"{value!r} is no address of a single host")
    if "%" in value:
        raise ValueError(f"{value!r} means something only on one machine; take a routed address")
    return str(number)


def same_address(value: str) -> str:
    """The form in which two addresses that are the same are equal."""
    return value.lower().removesuffix(".")


def is_loopback(value: str) -> bool:
    try:
        return ipaddress.ip_address(value).is_loopback
    except ValueError:
        return same_address(value) in {"localhost", "localhost.localdomain"}


def login(value: str) -> str:
    if not _LOGIN.fullmatch(value):
        raise ValueError(f"{value!r} cannot be a user's name")
    return value


def jump(value: str) -> str:
    """A host to go through: [user@]host[:port]; an IPv6 address in brackets."""
    match = re.fullmatch(r"(?:([^@]+)@)?(?:\[([^]]+)\]|([^:@\[\]]+))(?::(\d{1,5}))?", value)
    if not match:
        raise ValueError(f"{value!r} is not [user@]host[:port]")
    if match[1]:
        login(match[1])
    address(match[2] or match[3])
    if match[4] and not 1 <= int(match[4]) <= 65535:
        raise ValueError(f"{value!r}: {match[4]} is no port")
    return value


def jump_parts(value: str) -> tuple[str | None, str, int | None]:
    """Take [user@]host[:port] apart."""
    user, _, rest = value.rpartition("@")
    host, _, port = rest.removeprefix("[").partition("]") if "[" in rest else (rest, "", "")
    if "[" not in rest:
        host, _, port = rest.partition(":")
    port = port.removeprefix(":")
    return user or None, host, int(port) if port else None


def plain_word(value: str) -> str:
    if not _WORD.fullmatch(value):
        raise ValueError(f"{value!r} must be letters, digits and _ . - (at most 63)")
    return value


def instance_type(value: str) -> str:
    """A cloud's name for a kind of machine: p5.48xlarge, gpu-h100-sxm/8gpu-128vcpu-1600gb."""
    if not _TYPE.fullmatch(value):
        raise ValueError(f"{value!r} must be letters, digits and _ . - with at most one '/'")
    return value


def parameter_path(value: str) -> str:
    """A path in a cloud's parameter store: /dto/lab/host-keys."""
    if not _PARAMETER.fullmatch(value):
        raise ValueError(f"{value!r} must be a path such as /dto/lab/host-keys")
    return value


def partition(value: str) -> str:
    if value.lower() in {"all", "default"}:
        raise ValueError(f"{value!r} has a meaning of its own; take another name")
    return value


def max_time(value: str) -> str:
    """A time limit as dto and SLURM write it, in SLURM's own form."""
    if value.upper() in {"UNLIMITED", "INFINITE"}:
        return "UNLIMITED"
    return slurm_time(parse_time_limit(value))


def device(value: str) -> str:
    if not re.fullmatch(r"/dev/[A-Za-z0-9_./-]+", value) or ".." in value:
        raise ValueError(f"{value!r} is not the path of a device, such as /dev/nvidia0")
    return value


def counted_files(raw: Any) -> Any:
    """Let `gpu_files: [/dev/nvidia[0-3]]` name four files, and files alone give their number."""
    if not isinstance(raw, dict) or not isinstance(raw.get("gpu_files"), list | tuple):
        return raw
    files = [one for entry in raw["gpu_files"] for one in _expanded(entry)]
    counted = {"gpus": len(files)} if files and raw.get("gpus") is None else {}
    return {**raw, "gpu_files": files, **counted}


def _expanded(entry: Any) -> list[Any]:
    match = re.fullmatch(r"([^\[\]]*)\[(\d{1,3})-(\d{1,3})\]", str(entry))
    if not match:
        return [entry]
    return [f"{match[1]}{number}" for number in range(int(match[2]), int(match[3]) + 1)]


def files_fit(gpus: int, files: tuple[str, ...]) -> None:
    if files and len(files) != gpus:
        raise ValueError(f"gpus is {gpus}, but gpu_files names {len(files)}")
    if len(set(files)) != len(files):
        raise ValueError("gpu_files names one device twice")


def user_name(value: str) -> str:
    login(value)
    if value in _SYSTEM_USERS or value.startswith("systemd-"):
        raise ValueError(f"{value!r} is an account of the system; users are people")
    return value


def uid(value: int) -> int:
    if value < 1000:
        raise ValueError(f"{value} belongs to the system; people start at 1000")
    if 61184 <= value <= 65535 or value > 2_000_000_000:
        raise ValueError(f"{value} is kept for the system; take one from 1000 to 60000")
    return value


def source(value: str) -> str:
    if re.search(r"\s", value) or not value or value.startswith("-"):
        raise ValueError(f"{value!r} cannot be mounted from: no spaces, no '-' in front")
    return value


def source_fits(kind: str, given: str | None) -> None:
    if kind in _SOURCES and given is None:
        raise ValueError(f"{kind} needs a source: {_SOURCES[kind]}")
    if kind == "existing" and given is not None:
        raise ValueError("existing takes no source: `path` is there already on all hosts")
    if kind == "nfs" and given is not None and not re.search(r":/", given):
        raise ValueError(
            f"source {given!r} is not `server:/folder`; without one the head serves it"
        )


def shared_path(value: str) -> str:
    path = value.rstrip("/") or "/"
    if not re.fullmatch(r"(/[A-Za-z0-9_.-]+)+|/", path) or {"..", "."} & set(path.split("/")):
        raise ValueError(f"{value!r} must be an absolute path of letters, digits and _ . -")
    if path in _OWN_FOLDERS or any(f"{path}/".startswith(f"{tree}/") for tree in _OWN_TREES):
        raise ValueError(f"{value!r} belongs to the system; take one of its own, such as /shared")
    return path


def mount_options(value: str) -> str:
    if re.search(r"\s", value):
        raise ValueError(f"{value!r} must be mount options with commas and no spaces")
    return value


def task_plugin(value: str) -> str:
    names = [name.strip().removeprefix("task/") for name in value.split(",")]
    bad = [name for name in names if name not in {"cgroup", "affinity", "none"}]
    if bad or len(set(names)) != len(names) or ("none" in names and len(names) > 1):
        raise ValueError(f"{value!r} must be cgroup, affinity, both with a comma, or none")
    return ",".join(names)


def number_text(value: Any) -> Any:
    """Let JSON say 90 where slurm.conf has text."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def slurm_settings(settings: dict[str, str]) -> dict[str, str]:
    seen: dict[str, str] = {}
    for key, value in settings.items():
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", key):
            raise ValueError(f"{key!r} is no key of slurm.conf")
        if reason := OWNED_SETTINGS.get(key.lower()):
            raise ValueError(f"{key} cannot be set here: {reason}")
        if re.search(r"[\x00-\x1f\x7f#]", value) or not value.strip():
            raise ValueError(f"the value of {key} must be one line, not empty and without '#'")
        if key.lower() in seen:
            raise ValueError(f"{seen[key.lower()]} and {key} are the same key")
        seen[key.lower()] = key
    return settings


def power_command(value: str) -> str:
    known = ", ".join(f"{{{name}}}" for name in POWER_FIELDS)
    try:
        fields = list(string.Formatter().parse(value))
    except ValueError:
        raise ValueError(f"{value!r}: write {{{{ and }}}} for braces that are no field") from None
    for _, name, spec, conversion in fields:
        if name is not None and (name not in POWER_FIELDS or spec or conversion):
            raise ValueError(f"unknown field {{{name}}} in a power command; known are {known}")
    if not value.strip():
        raise ValueError("a power command must not be empty")
    if re.search(r"(^|[\s/])ipmitool\s.*\s-P\s*\S|(?i:passw(or)?d=\S)", value):
        raise ValueError("it holds a password; let the command read that from a file")
    return value
