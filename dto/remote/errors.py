"""What can go wrong between here and a host, each in one line that says what to do."""

from __future__ import annotations

from dto.errors import ClusterError


def where(address: str, port: int) -> str:
    """An address as people and known_hosts write it: the usual port is left out."""
    return address if port == 22 else f"[{address}]:{port}"


def printable(text: str) -> str:
    """One line that a terminal only shows: names, paths and a host's words may hold anything."""
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


class RemoteError(ClusterError):
    """A host could not be reached, would not let us in, or did not do as asked."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Unreachable(RemoteError):
    """No ssh connection to this address could be made."""

    def __init__(self, address: str, port: int, reason: str) -> None:
        super().__init__(f"cannot reach {where(address, port)}: {reason}")
        self.address, self.port, self.reason = address, port, reason


class ConnectionLost(Unreachable):
    """The connection broke while a command ran; whether it finished there is not known."""


class UnknownHostKey(RemoteError):
    """The host shows a key that nobody vouches for; a caller may ask once, and store it."""

    def __init__(
        self, address: str, port: int, key_type: str, key: str, fingerprint: str, advice: str = ""
    ) -> None:
        advice = advice or (
            "compare it with what `ssh-keygen -lf` says of the host's own key file, then list it"
            " under host_keys or accept it"
        )
        super().__init__(
            f"{where(address, port)} shows a host key that is not known yet:"
            f" {key_type} {fingerprint}; {advice}"
        )
        self.address, self.port = address, port
        self.key_type, self.key, self.fingerprint = key_type, key, fingerprint


class HostKeyChanged(RemoteError):
    """The host shows another key than the one that is known for it."""

    def __init__(
        self, address: str, port: int, fingerprint: str, file: str | None, line: int, remedy: str
    ) -> None:
        source = f"line {line} of {file}" if file else "the host_keys given for it"
        super().__init__(
            f"{where(address, port)} shows another host key ({fingerprint}) than {source}: somebody"
            f" may be listening in, or the host was reinstalled; if you are sure of that: {remedy}"
        )
        self.address, self.port, self.fingerprint = address, port, fingerprint
        self.file, self.line = file, line


class AuthenticationRefused(RemoteError):
    """The host let nobody in with the keys that could be tried."""

    def __init__(
        self, user: str, address: str, port: int, tried: tuple[str, ...], advice: str
    ) -> None:
        keys = f"tried {', '.join(tried)}" if tried else "there was no key to try"
        super().__init__(f"{where(address, port)} refused the login of {user} ({keys}): {advice}")
        self.user, self.address, self.port, self.tried = user, address, port, tried


class KeyUnusable(AuthenticationRefused):
    """A key file is missing, cannot be read, has a passphrase, or is no private key."""

    def __init__(self, path: str, problem: str) -> None:
        RemoteError.__init__(self, f"the ssh key {path} {problem}")
        self.path, self.problem = path, problem
        self.user, self.address, self.port, self.tried = "", "", 0, ()


class TimedOut(RemoteError):
    """A command did not end in its time, and was ended."""

    def __init__(self, host: str, command: str, seconds: float, *, is_ended: bool = True) -> None:
        ending = "and was stopped" if is_ended else "and the host did not say that it stopped it"
        super().__init__(f"{host}: `{command}` did not end within {seconds:g} s {ending}")
        self.host, self.command, self.seconds, self.is_ended = host, command, seconds, is_ended


class FileRefused(RemoteError):
    """A file could not be read, written or moved."""

    def __init__(self, host: str, path: str, reason: str) -> None:
        super().__init__(f"{host}: {path}: {reason}")
        self.host, self.path, self.reason = host, path, reason


class FileMissing(FileRefused):
    """There is no such file."""
