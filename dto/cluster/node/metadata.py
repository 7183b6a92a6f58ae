"""A cloud machine's metadata service, version 2 of Amazon's: a token first, then questions."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from datetime import datetime, timezone
from http.client import HTTPException

from dto.cluster.node.errors import UnreachableError

URL = "http://169.254.169.254"
_TOKEN_SECONDS = 21600
_TIMEOUT_SECONDS = 3.0
_NOTICE_SECONDS = 120.0
_SPOT = "/latest/meta-data/spot/instance-action"
_REBALANCE = "/latest/meta-data/events/recommendations/rebalance"


@dataclass(frozen=True)
class Notice:
    """What the cloud will do with this machine, and when (seconds since 1970)."""

    action: str
    at: float

    def words(self) -> str:
        when = datetime.fromtimestamp(self.at, timezone.utc).strftime("%H:%M:%S UTC")
        return f"spot notice: {self.action} at {when}"


def parse_notice(text: str, now: float) -> Notice:
    """Read {"action": "terminate", "time": "2026-01-01T12:00:00Z"}.

    A notice that we cannot read is a notice all the same: then it counts from now.
    """
    try:
        found = json.loads(text)
        at = datetime.fromisoformat(str(found["time"]).replace("Z", "+00:00"))
        at = at if at.tzinfo else at.replace(tzinfo=timezone.utc)
        return Notice(str(found["action"]), at.timestamp())
    except (ValueError, KeyError, TypeError):
        return Notice("taken away", now + _NOTICE_SECONDS)


class Metadata:
    """Asks the service; a token is fetched again once it has run out."""

    def __init__(self, url: str = URL) -> None:
        self._url = url
        self._token = ""
        # Never through a proxy: the service answers only the machine itself.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def notice(self, now: float) -> Notice | None:
        text = self._get(_SPOT)
        return None if text is None else parse_notice(text, now)

    def is_at_risk(self) -> bool:
        """Tell whether the cloud thinks that this machine may soon be taken away."""
        return self._get(_REBALANCE) is not None

    def _get(self, path: str) -> str | None:
        """Return what is there; None where there is nothing.

        Raises:
            UnreachableError: the service does not answer, or refuses.
        """
        for is_last in (False, True):
            if not self._token:
                self._token = self._ask("PUT", "/latest/api/token", {
                    "X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)})  # fmt: skip
            try:
                return self._ask("GET", path, {"X-aws-ec2-metadata-token": self._token})
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401 or is_last:
                    raise UnreachableError(f"{self._url}{path} answers {error.code}") from None
                self._token = ""
        raise AssertionError("the second answer is the last")

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(self._url + path, method=method, headers=headers)
        try:
            with self._opener.open(request, timeout=_TIMEOUT_SECONDS) as answer:
                return str(answer.read(65536).decode(errors="replace"))
        except urllib.error.HTTPError as error:
            if method == "PUT":
                raise UnreachableError(f"{self._url} gives no token: {error.code}") from None
            raise
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise UnreachableError(f"{self._url} does not answer: {reason}") from None
