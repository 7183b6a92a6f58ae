"""A stub of Terraform's provider nebius/nebius: its schema and rules before a make-believe cloud.

Terraform starts it (tests/cloud/nebius/mirror.py) in an environment of its own that has the package
`tf`; it is not the true API, and knows of it only what schema/ and rules.py say.
"""

from __future__ import annotations

import json
import os
from typing import Any

import tf.provider
from tf.gen import tfplugin_pb2 as pb
from tf.iface import DataSource, Provider, Resource
from tf.runner import run_provider
from tf.schema import Attribute, Schema
from tf.types import TfType, Unknown
from tf.utils import Diagnostics, _to_attribute_path, read_dynamic_value

from tests.cloud.nebius import rules, store
from tests.cloud.nebius.schema import Field, Fields, read_schemas, replaced_by

PREFIX = "nebius_"
SCHEMAS = read_schemas()


class Plain(TfType):
    """A value as Terraform sends it."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def encode(self, value: Any) -> Any:
        return value

    def decode(self, value: Any) -> Any:
        return value

    def tf_type(self) -> bytes:
        return json.dumps(self.kind).encode()


class Told(Attribute):
    """An attribute of our schema; a nested one becomes a type for which `tf` has no class."""

    def __init__(self, field: Field) -> None:
        super().__init__(
            field.name, Plain(field.type or "dynamic"), required=field.flag == "R",
            optional="O" in field.flag, computed=field.computed, sensitive=field.sensitive,
            requires_replace=field.replaces,
        )  # fmt: skip
        self.field = field

    def to_pb(self) -> pb.Schema.Attribute:
        told = super().to_pb()
        if self.field.nesting:
            modes = pb.Schema.Object.NestingMode
            nesting = modes.SINGLE if self.field.nesting == "single" else modes.LIST
            inner = [Told(child).to_pb() for child in self.field.children.values()]
            told.ClearField("type")
            told.nested_type.CopyFrom(pb.Schema.Object(attributes=inner, nesting=nesting))
        return told


def schema_of(fields: Fields) -> Schema:
    return Schema(attributes=[Told(field) for field in fields.values()])


class Named:
    """What a resource and a data source have in common; `classes` gives them kind and fields."""

    kind: str
    fields: Fields

    def __init__(self, provider: Provider) -> None:
        pass

    @classmethod
    def get_name(cls) -> str:
        return cls.kind.removeprefix(PREFIX)

    @classmethod
    def get_schema(cls) -> Schema:
        return schema_of(cls.fields)


class Thing(Named, Resource):
    """Any resource."""

    def validate(self, diags: Diagnostics, type_name: str, config: Any) -> None:
        for problem in rules.problems(self.kind, config or {}):
            diags.add_error("Invalid Attribute Value", problem)

    def create(self, ctx: Any, planned: dict[str, Any]) -> Any:
        try:
            return store.create(self.kind, self.fields, _known(planned))
        except store.Refused as refusal:
            ctx.diagnostics.add_error("Creation failed", str(refusal))
            return None

    def read(self, ctx: Any, current: dict[str, Any]) -> Any:
        return store.read(current["id"])

    def update(self, ctx: Any, current: dict[str, Any], planned: dict[str, Any]) -> Any:
        try:
            return store.update(_known(planned))
        except store.Refused as refusal:
            ctx.diagnostics.add_error("Update failed", str(refusal))
            return current

    def delete(self, ctx: Any, current: dict[str, Any]) -> Any:
        try:
            store.delete(current["id"])
            return None
        except store.Refused as refusal:
            ctx.diagnostics.add_error("Deletion failed", str(refusal))
            return current

    def upgrade(self, ctx: Any, version: int, old: dict[str, Any]) -> Any:
        return old


class Look(Named, DataSource):
    """Any data source."""

    def read(self, ctx: Any, config: dict[str, Any]) -> Any:
        try:
            return store.look_up(self.kind, self.fields, config)
        except store.Refused as refusal:
            ctx.diagnostics.add_error("Not found", str(refusal))
            return None


def _known(value: Any) -> Any:
    """What Terraform left to the cloud is null until the cloud says it."""
    if value is Unknown:
        return None
    if isinstance(value, dict):
        return {name: _known(inner) for name, inner in value.items()}
    return [_known(inner) for inner in value] if isinstance(value, list) else value


def classes(base: type, role: str) -> list[Any]:
    found = [(name, fields) for (what, name), fields in SCHEMAS.items() if what == role]
    return [type(name, (base,), {"kind": name, "fields": fields}) for name, fields in found]


class Nebius(Provider):
    """What the stub is to Terraform."""

    def get_model_prefix(self) -> str:
        return PREFIX

    def full_name(self) -> str:
        return "registry.terraform.io/nebius/nebius"

    def get_provider_schema(self, diags: Diagnostics) -> Schema:
        return schema_of(SCHEMAS["provider", "nebius"])

    def validate_config(self, diags: Diagnostics, config: Any) -> None:
        pass

    def configure_provider(self, diags: Diagnostics, config: Any) -> None:
        """Refuse what the true provider could not sign in with."""
        config = config or {}
        account = config.get("service_account") or {}
        named = [value for name, value in account.items() if name.endswith("_env") and value]
        for name in named:
            if not os.environ.get(name):
                diags.add_error("Invalid Credentials", f"environment variable {name} is not set")
        ways = [account, config.get("token"), config.get("profile"), config.get("no_credentials")]
        if not any(ways) and not os.environ.get("NEBIUS_IAM_TOKEN"):
            diags.add_error("Invalid Credentials", "no service account, token or profile was given")

    def get_data_sources(self) -> list[Any]:
        return classes(Look, "data")

    def get_resources(self) -> list[Any]:
        return classes(Thing, "resource")


class Servicer(tf.provider.ProviderServicer):
    """Also replaces a resource for the sake of an attribute further down than `tf` looks."""

    def PlanResourceChange(self, request: Any, context: Any) -> Any:
        answer = super().PlanResourceChange(request, context)
        old, new = read_dynamic_value(request.prior_state), read_dynamic_value(answer.planned_state)
        if old is None or new is None:
            return answer
        for name, field in SCHEMAS["resource", request.type_name].items():
            one = {name: field}
            if field.nesting and not field.replaces and replaced_by(one, old, new):
                answer.requires_replace.append(_to_attribute_path([name]))
        return answer


if __name__ == "__main__":
    tf.provider.ProviderServicer = Servicer
    run_provider(Nebius())
