"""Nebius before an apply: what can be told here, without its API: credentials, preset, fabric."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dto.cluster.cloud.verdict import Verdict

VARIABLES = ("instance_type", "head_instance_type", "enable_infiniband", "infiniband_fabric")
TOKEN = "NEBIUS_IAM_TOKEN"
ACCOUNT = ("NB_SA_ID", "NB_AUTHKEY_PUBLIC_ID", "NB_AUTHKEY_PRIVATE_PATH")
_LEAST_MINUTES = 15
_WITH_FABRIC = "8gpu-"


def credentials(env: Mapping[str, str], now: float | None = None) -> Verdict:
    """Look at the environment alone; whether Nebius accepts it, Terraform finds out."""
    if token := env.get(TOKEN):
        problem = judge_token(token, time.time() if now is None else now)
        return Verdict((problem,)) if problem else Verdict()
    missing = [name for name in ACCOUNT if not env.get(name)]
    if len(missing) == len(ACCOUNT):
        names = ", ".join(ACCOUNT)
        return Verdict((f"no Nebius credentials: set {TOKEN}, or {names} of a service account",))
    if missing:
        return Verdict((f"{', '.join(missing)} not set: all of {', '.join(ACCOUNT)} are needed",))
    key = Path(env[ACCOUNT[2]]).expanduser()
    if not os.access(key, os.R_OK) or not key.is_file():
        return Verdict((f"{ACCOUNT[2]}: {key} is no file that can be read",))
    if b"PRIVATE KEY-----" not in key.read_bytes()[:4096]:
        return Verdict((f"{ACCOUNT[2]}: {key} holds no private key in PEM form",))
    return Verdict()


def judge_token(token: str, now: float) -> str | None:
    """Say what is wrong with a token; an opaque one can only be tried."""
    if token != token.strip() or any(sign.isspace() for sign in token):
        return f"{TOKEN} has spaces or line ends in it: nebius iam get-access-token prints it"
    until = expiry(token)
    if until is None:
        return None
    if until <= now:
        return f"{TOKEN} has expired: export {TOKEN}=$(nebius iam get-access-token)"
    if until - now < 60 * _LEAST_MINUTES:
        minutes = int((until - now) / 60)
        return f"{TOKEN} expires in {minutes} min, an apply may take longer: make a new one"
    return None


def expiry(token: str) -> float | None:
    """Return when a JWT expires; None where it is none, or does not say."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        payload = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return float(payload["exp"])
    except (ValueError, KeyError, TypeError):
        return None


def check(variables: Mapping[str, Any]) -> Verdict:
    failures = []
    for name in ("instance_type", "head_instance_type"):
        kind = variables.get(name)
        if kind is not None and not all(str(kind).partition("/")[::2]):
            failures.append(
                f"{name} {kind!r} is not PLATFORM/PRESET, as gpu-h100-sxm/1gpu-16vcpu-200gb"
            )
    preset = str(variables.get("instance_type", "")).partition("/")[2]
    fabric = variables.get("infiniband_fabric")
    if fabric and preset and not preset.startswith(_WITH_FABRIC):
        failures.append(f"fabric {fabric} does not fit preset {preset}: only 8 GPUs have one")
    if variables.get("enable_infiniband") and preset.startswith(_WITH_FABRIC) and not fabric:
        failures.append(f"preset {preset} needs infiniband_fabric (or enable_infiniband = false)")
    return Verdict(tuple(failures))
