"""The parts of a cluster's record: hosts, groups, users, and what is installed on them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dto.cluster import keys, words
from dto.config.spec import Count, Line

Provider = Literal["metal", "aws", "nebius", "local"]
SharedKind = Literal["nfs", "efs", "fsx-lustre", "virtiofs", "existing"]

HostName = Annotated[Line, AfterValidator(words.host_name)]
Address = Annotated[Line, AfterValidator(words.address)]
Jump = Annotated[Line, AfterValidator(words.jump)]
Word = Annotated[Line, AfterValidator(words.plain_word)]
InstanceType = Annotated[Line, AfterValidator(words.instance_type)]
Device = Annotated[Line, AfterValidator(words.device)]
HostKey = Annotated[Line, AfterValidator(keys.host_key)]
UserKey = Annotated[Line, AfterValidator(keys.user_key)]
Command = Annotated[Line, AfterValidator(words.power_command)]
Setting = Annotated[str, BeforeValidator(words.number_text)]
Dollars = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]


class Part(BaseModel):
    """A strict piece of the record; a key that is null is a key that is absent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        return {key: value for key, value in raw.items() if value is not None}


class Ssh(Part):
    """How the operator reaches the hosts. `key` is a path on the operator's machine, no key."""

    user: Annotated[Line, AfterValidator(words.login)] = "root"
    port: Annotated[Count, Field(ge=1, le=65535)] = 22
    key: Line | None = None
    bastion: Jump | None = None

    @property
    def way_in(self) -> str | None:
        """The bastion, with who we are there: the hosts' user unless it names its own."""
        if self.bastion is None or "@" in self.bastion:
            return self.bastion
        return f"{self.user}@{self.bastion}"


class Host(Part):
    """A machine: `address` is what the others reach it by, `public_address` what we do."""

    name: HostName
    address: Address
    public_address: Address | None = None
    local: bool = False
    """It is the machine that we run on: no ssh."""
    instance_id: Word | None = None
    instance_type: InstanceType | None = None
    hourly_usd: Dollars | None = None
    """What it costs while it is on; else the record's `prices` tell, by its instance type."""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every address it answers to, the cluster's own first."""
        return tuple(dict.fromkeys(a for a in (self.address, self.public_address) if a))


class Node(Host):
    """A machine that takes jobs. What it does not say, its group says."""

    group: Word = ""
    gpus: Annotated[Count, Field(ge=0, le=64)] = 0
    gpu_type: Word = "gpu"
    gpu_files: tuple[Device, ...] = ()
    features: tuple[Word, ...] = ()
    spot: bool = False

    @model_validator(mode="before")
    @classmethod
    def _count_files(cls, raw: Any) -> Any:
        return words.counted_files(raw)

    @model_validator(mode="after")
    def _files_fit(self) -> Node:
        words.files_fit(self.gpus, self.gpu_files)
        return self

    @property
    def device_files(self) -> tuple[str, ...]:
        """The GPUs' device files: those given, else NVIDIA's."""
        return self.gpu_files or tuple(f"/dev/nvidia{number}" for number in range(self.gpus))


class NodeGroup(Part):
    """Nodes of one kind: a partition, and what each node has unless it says otherwise."""

    partition: Annotated[Word, AfterValidator(words.partition)] | None = None
    default: bool = False
    max_time: Annotated[Line, AfterValidator(words.max_time)] = "1-00:00:00"
    gpus: Annotated[Count, Field(ge=0, le=64)] = 0
    gpu_type: Word = "gpu"
    gpu_files: tuple[Device, ...] = ()
    features: tuple[Word, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _count_files(cls, raw: Any) -> Any:
        return words.counted_files(raw)

    @model_validator(mode="after")
    def _files_fit(self) -> NodeGroup:
        words.files_fit(self.gpus, self.gpu_files)
        return self


class User(Part):
    """A person with the same number and the same public keys on every host."""

    name: Annotated[Line, AfterValidator(words.user_name)]
    uid: Annotated[Count, AfterValidator(words.uid)]
    keys: tuple[UserKey, ...] = ()
    sudo: bool = False


class Shared(Part):
    """The filesystem that all hosts see. nfs without a source: the head serves it."""

    kind: SharedKind = "nfs"
    source: Annotated[Line, AfterValidator(words.source)] | None = None
    path: Annotated[Line, AfterValidator(words.shared_path)] = "/shared"
    options: Annotated[Line, AfterValidator(words.mount_options)] = ""

    @model_validator(mode="after")
    def _source_fits(self) -> Shared:
        words.source_fits(self.kind, self.source)
        return self


class Slurm(Part):
    """What differs from our slurm.conf; `settings` are lines of it, by their SLURM names."""

    max_nodes: Annotated[Count, Field(ge=1, le=65533)] = 512
    accounting: bool = False
    proctrack: Literal["cgroup", "linuxproc", "pgid"] = "cgroup"
    task_plugin: Annotated[Line, AfterValidator(words.task_plugin)] = "cgroup,affinity"
    settings: Annotated[dict[str, Setting], AfterValidator(words.slurm_settings)] = Field(
        default_factory=dict
    )


class Power(Part):
    """Commands that switch one node on and off, run by the head: {name}, {address} ..."""

    on: Command | None = None
    off: Command | None = None


class Budget(Part):
    """What the cluster may use until somebody raises it; what is None is not limited.

    At 80 % of `amount` or `hours` people are warned, at 100 % jobs save and the nodes are switched
    off; a node that was idle for `idle_minutes` is switched off, too.
    """

    amount: Dollars | None = None
    """In the currency of `prices`."""
    hours: Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)] | None = None
    """Node-hours: two nodes for an hour are two."""
    idle_minutes: Annotated[float, Field(gt=0, le=1e5, allow_inf_nan=False)] | None = None


class Cloud(Part):
    """Where the cloud keeps this cluster: what its head may ask for and what `down` sweeps."""

    account: Word | None = None
    """The AWS account or the Nebius project."""
    scaling_group: Word | None = None
    """The auto-scaling group that holds the nodes (AWS)."""
    host_keys: Annotated[Line, AfterValidator(words.parameter_path)] | None = None
    """The SSM path under which hosts publish their host keys (AWS)."""


class Monitoring(Part):
    node_exporter: bool = False
    dcgm: bool = False
    prometheus: bool = False
    grafana: bool = False


class Software(Part):
    """What jobs find: `wheels` is a folder here that replaces the package index (no network)."""

    python: Line | None = None
    wheels: Line | None = None
    horovod: bool = True
    torch: Literal["auto", "cpu", "none"] = "auto"
