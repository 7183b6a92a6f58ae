"""Sign words with the cluster's munge key, and read who signed them."""

from __future__ import annotations

from dto.cluster.node.commands import run
from dto.cluster.node.errors import MungeError


def seal(words: str) -> str:
    """Return a credential of root's that only root of a host with the same key can read."""
    done = run("munge", "--restrict-uid=0", stdin=words, timeout=10)
    if done.code:
        raise MungeError(f"munge does not work: {done.said}")
    return done.out.strip()


def unseal(credential: str) -> str:
    """Return the words of a credential that root signed."""
    done = run("unmunge", stdin=credential, timeout=10)
    if done.code:
        raise MungeError(f"munge refuses the other side's credential: {done.said}")
    uid, words = parse_unmunge(done.out)
    if uid != 0:
        raise MungeError(f"the credential is of uid {uid}, not of root")
    return words


def parse_unmunge(text: str) -> tuple[int, str]:
    """Return uid and payload out of what unmunge prints."""
    header, _, words = text.partition("\n\n")
    for line in header.splitlines():
        key, _, value = line.partition(":")
        if key == "UID":
            return int(value[value.rindex("(") + 1 : value.rindex(")")]), words.rstrip("\n")
    raise MungeError("unmunge did not say who signed")
