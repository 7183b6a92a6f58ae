"""Placement groups for the make-believe AWS: moto has none."""

from __future__ import annotations

from typing import Any

from moto.core.responses import ActionResult
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.responses import EC2Response

_groups: dict[str, dict[str, Any]] = {}


class DuplicatePlacementGroup(EC2ClientError):
    def __init__(self, name: str) -> None:
        text = f"The Placement Group {name} already exists."
        super().__init__("InvalidPlacementGroup.Duplicate", text)


class UnknownPlacementGroup(EC2ClientError):
    def __init__(self, name: str) -> None:
        super().__init__("InvalidPlacementGroup.Unknown", f"The Placement Group {name} is unknown.")


def add_placement_groups() -> None:
    """Teach moto's EC2 to make, list and delete them; tags are kept, filters by tag understood."""
    for function in (create_placement_group, describe_placement_groups, delete_placement_group):
        setattr(EC2Response, function.__name__, function)


def create_placement_group(self: Any) -> ActionResult:
    name = self._get_param("GroupName")
    if name in _groups:
        raise DuplicatePlacementGroup(name)
    tags = [tag for part in self._get_param("TagSpecifications", []) for tag in part["Tags"]]
    _groups[name] = {
        "GroupName": name,
        "GroupId": f"pg-{len(_groups):017x}",
        "State": "available",
        "Strategy": self._get_param("Strategy"),
        "Tags": tags,
    }
    return ActionResult({"PlacementGroup": _groups[name]})


def describe_placement_groups(self: Any) -> ActionResult:
    names = [*self._get_param("GroupNames", []), *self._get_param("GroupIds", [])]
    found = list(_groups.values())
    if names:
        found = [one for one in found if one["GroupName"] in names or one["GroupId"] in names]
        if not found:
            raise UnknownPlacementGroup(names[0])
    for part in self._get_param("Filters", []):
        key = part["Name"].removeprefix("tag:")
        found = [
            one
            for one in found
            if any(tag["Key"] == key and tag["Value"] in part["Values"] for tag in one["Tags"])
        ]
    return ActionResult({"PlacementGroups": found})


def delete_placement_group(self: Any) -> ActionResult:
    name = self._get_param("GroupName")
    if _groups.pop(name, None) is None:
        raise UnknownPlacementGroup(name)
    return ActionResult({})
