"""The record of a cluster: who its hosts are and what they should become (`dto_cluster`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from dto.cluster import words
from dto.cluster.inventory_checks import (
    INHERITED,
    between_hosts,
    filled,
    plain_problems,
    secrets,
    templates,
)
from dto.cluster.inventory_hosts import (
    Address,
    Budget,
    Cloud,
    Dollars,
    Host,
    HostKey,
    InstanceType,
    Monitoring,
    Node,
    NodeGroup,
    Part,
    Power,
    Provider,
    Shared,
    Slurm,
    Software,
    Ssh,
    User,
    Word,
)
from dto.config.spec import Line
from dto.errors import ConfigError

IMPLIED_GROUPS = ("gpu", "cpu")
"""The groups of a record that names none: their partitions exist before their first node."""


def _version(value: Any) -> int:
    if str(value) != "1":
        raise ValueError(f"this dto reads version 1 of the record, not {value!r}; update dto")
    return 1


@dataclass(frozen=True)
class Partition:
    """A SLURM partition; `feature` selects its nodes, none selects all."""

    name: str
    feature: str | None
    default: bool
    max_time: str


class DtoCluster(Part):
    """One cluster. Terraform outputs it, a person writes it as YAML, flags build it."""

    version: Annotated[Literal[1], BeforeValidator(_version)] = 1
    name: Annotated[Line, AfterValidator(words.cluster_name)]
    provider: Provider = "metal"
    region: Line = ""
    ssh: Ssh = Ssh()
    host_keys: dict[Address, tuple[HostKey, ...]] = Field(default_factory=dict)
    head: Host
    nodes: tuple[Node, ...] = ()
    node_groups: dict[Word, NodeGroup] = Field(default_factory=dict)
    users: tuple[User, ...] = ()
    shared: Shared = Shared()
    slurm: Slurm = Slurm()
    power: Power = Power()
    bucket: Line | None = None
    prices: dict[InstanceType, Dollars] | None = None
    """What an instance type costs an hour; `<type>-spot` is its price on spot."""
    budget: Budget = Budget()
    cloud: Cloud = Cloud()
    monitoring: Monitoring = Monitoring()
    software: Software = Software()

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, raw: Any) -> Any:
        return filled(raw)

    @model_validator(mode="after")
    def _fits(self) -> DtoCluster:
        problems = between_hosts(self)
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def members(self) -> tuple[Host, ...]:
        """Every host once: the head first, as a node where it takes jobs itself."""
        head = self.head_node or self.head
        return (head, *(node for node in self.nodes if node is not head))

    @property
    def head_node(self) -> Node | None:
        """The head as a node that takes jobs, if it does."""
        return next((node for node in self.nodes if node.name == self.head.name), None)

    @property
    def groups(self) -> dict[str, NodeGroup]:
        """The node groups, those that are implied where none are named."""
        return self.node_groups or {name: NodeGroup() for name in IMPLIED_GROUPS}

    def partitions(self) -> tuple[Partition, ...]:
        """One for each group, and `all`, which is the default where no group is."""
        named = tuple(
            Partition(group.partition or name, name, group.default, group.max_time)
            for name, group in self.groups.items()
        )
        is_free = not any(partition.default for partition in named)
        return (*named, Partition("all", None, is_free, "1-00:00:00"))

    def node(self, name: str) -> Node:
        """Return a node by its name or one of its addresses."""
        for node in self.nodes:
            if name in (node.name, node.address, node.public_address):
                return node
        known = ", ".join(node.name for node in self.nodes) or "none"
        raise ConfigError(f"no node {name!r} in cluster {self.name}; its nodes are: {known}")

    def with_node(self, node: Node) -> DtoCluster:
        """Return the record with a node added, or put in place of the one of that name."""
        new = node.model_dump(mode="json", exclude_unset=True)
        nodes = [self._raw(old) for old in self.nodes]
        at = [i for i, old in enumerate(self.nodes) if old.name.lower() == node.name.lower()]
        if at:
            nodes[at[0]] = new
        else:
            nodes.append(new)
        return parse_record({**self.to_json(), "nodes": nodes}, f"cluster {self.name}")

    def without_node(self, name: str) -> DtoCluster:
        """Return the record without a node and the host keys of its addresses."""
        gone = self.node(name)
        keep = [node for node in self.nodes if node is not gone]
        used = {place for host in (self.head, *keep) for place in host.addresses}
        keys = {
            place: list(keys)
            for place, keys in self.host_keys.items()
            if place not in gone.addresses or place in used
        }
        nodes = [self._raw(node) for node in keep]
        changed = {**self.to_json(), "nodes": nodes, "host_keys": keys}
        return parse_record(changed, f"cluster {self.name}")

    def with_host_keys(self, found: Mapping[str, Iterable[str]]) -> DtoCluster:
        """Return the record with host keys that were confirmed; those of other hosts stay."""
        keys = {place: list(keys) for place, keys in self.host_keys.items()}
        keys |= {place: list(lines) for place, lines in found.items()}
        return parse_record({**self.to_json(), "host_keys": keys}, f"cluster {self.name}")

    def ssh_address(self, host: Host) -> str:
        """Where we reach a host: its public address, else its own (through the bastion)."""
        return host.public_address or host.address

    def needs_bastion(self, host: Host) -> bool:
        """Whether the way to a host goes through ssh.bastion."""
        if self.ssh.bastion is None or host.local or host.public_address:
            return False
        return words.jump_parts(self.ssh.bastion)[1] not in host.addresses

    def seen_from_head(self) -> DtoCluster:
        """Return the record as the head itself reads it: no ssh to itself, inner addresses."""
        raw = self.to_json()
        raw["ssh"] = {k: v for k, v in raw.get("ssh", {}).items() if k not in ("key", "bastion")}
        for host in (raw["head"], *raw.get("nodes", ())):
            host.pop("public_address", None)
            host["local"] = host["name"] == self.head.name
        return parse_record(raw, f"cluster {self.name}")

    def to_json(self) -> dict[str, Any]:
        """Return what differs from the defaults, as JSON types; `parse_record` reads it back."""
        values = self.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        if self.nodes:
            values["nodes"] = [self._raw(node) for node in self.nodes]
        return {"version": self.version, **values}

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_json(), sort_keys=False, allow_unicode=True, width=10_000)

    def _raw(self, node: Node) -> dict[str, Any]:
        """What a node says, and also what its group would else say for it."""
        values = node.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
        whole = node.model_dump(mode="json")
        group = self.groups[node.group].model_dump(mode="json")
        return values | {key: whole[key] for key in INHERITED if whole[key] != group[key]}


def parse_record(raw: Any, where: str) -> DtoCluster:
    """Check a record; `where` says where it was written.

    Raises:
        ConfigError: the first problem with the path of its key, and how many more there are.
    """
    problems = secrets(raw) or templates(raw)
    if not problems:
        try:
            return DtoCluster.model_validate(raw)
        except ValidationError as error:
            problems = plain_problems(error, DtoCluster)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    raise ConfigError(f"{where}: {problems[0]}{more}")
