"""A root of terraform/ in a folder of a test's own, on a make-believe Nebius of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.cloud.nebius import mirror, store
from tests.cloud.terraform import Terraform, copy_root

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDtoDYHFIDTFgmVbDTmIQ3OqGXTLaH0Kq4kYoWtVYTJn you@example"
EIGHT = "gpu-h100-sxm/8gpu-128vcpu-1600gb"
ONE = "gpu-h100-sxm/1gpu-16vcpu-200gb"
FIVE: dict[str, Any] = {
    "cluster_name": "lab",
    "project_id": "project-e00test",
    "instance_type": ONE,
    "instance_count": 2,
    "allowed_cidr_blocks": ["203.0.113.0/24"],
}
ACCOUNT = {
    "NB_SA_ID": "serviceaccount-e00operator",
    "NB_AUTHKEY_PUBLIC_ID": "publickey-e00operator",
    "NB_AUTHKEY_PRIVATE_PATH": "/nowhere/key.pem",
}


class Nebius:
    """A root, what it is given, and what exists in its cloud."""

    def __init__(self, folder: Path, root: str = "nebius") -> None:
        self.folder = copy_root(root, folder / "terraform")
        self.modules = folder / "terraform" / "modules" / "nebius-hpc"
        self.key = folder / "id_ed25519.pub"
        self.key.write_text(f"{KEY}\n")
        self._store = folder / "store.json"
        stub = mirror.install(folder / "stub", self._store)
        self.terraform = Terraform(self.folder, {**stub, **ACCOUNT})

    def given(self, **variables: Any) -> list[str]:
        """The five variables, the key and these, as arguments; what is None is left out."""
        said = {**FIVE, "vm_ssh_public_key_path": str(self.key), **variables}
        return [
            f"-var={name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in said.items()
            if value is not None
        ]

    def apply(self, **variables: Any) -> str:
        return self.terraform.apply(*self.given(**variables)).stdout

    def plan(self, **variables: Any) -> str:
        return self.terraform.plan(*self.given(**variables)).stdout

    def refusal(self, **variables: Any) -> str:
        """What Terraform says to a plan that it refuses, without its frame and line ends."""
        done = self.terraform.run("plan", *self.given(**variables))
        assert done.returncode == 1, done.stdout
        return plain(done.stderr)

    def existing(self, kind: str = "") -> dict[str, dict[str, Any]]:
        """The values of what exists, by name; of one kind, such as compute_v1_instance."""
        found = store.exists(self._store).values()
        return {
            entry["values"]["name"]: entry["values"]
            for entry in found
            if entry["kind"] == f"nebius_{kind}" or not kind
        }

    def forget(self, identity: str) -> None:
        """Take something away behind Terraform's back."""
        content = json.loads(self._store.read_text())
        del content["objects"][identity]
        self._store.write_text(json.dumps(content))


def plain(text: str) -> str:
    return " ".join(text.replace("│", " ").split())
