"""Puts a person's settings for slurm.conf together with ours."""

from __future__ import annotations

# Of these SLURM wants a list, and ours must stay in it.
JOINED = ("slurmctldparameters", "communicationparameters", "schedulerparameters")


def settings(ours: dict, theirs: dict) -> dict:
    """Return lines of slurm.conf: theirs win, whatever the case of their keys; lists are joined."""
    given = {key.lower(): (key, str(value)) for key, value in theirs.items()}
    found = {}
    for key, value in ours.items():
        other = given.pop(key.lower(), None)
        if other is None:
            found[key] = value
        elif key.lower() in JOINED:
            found[key] = join(value, other[1])
        else:
            found[key] = other[1]
    return {**found, **dict(given.values())}


def join(ours: str, theirs: str) -> str:
    """Return both lists; where both give a word a value, theirs counts."""
    named = {word.partition("=")[0].strip().lower() for word in theirs.split(",")}
    kept = [word for word in ours.split(",") if word.partition("=")[0].lower() not in named]
    return ",".join([*kept, theirs])


def plugins(kind: str, names: str) -> str:
    """Return `task/cgroup,task/affinity` for `cgroup,affinity`."""
    words = [word.strip().rpartition("/")[2] for word in names.split(",")]
    return ",".join(f"{kind}/{word}" for word in words)


class FilterModule:
    def filters(self) -> dict:
        return {"slurm_settings": settings, "slurm_plugins": plugins}
