"""Notices of a cloud that takes a machine away, asked for over real HTTP."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from dto.cluster.node import gone, slurm, spot
from dto.cluster.node.errors import NodeError, UnreachableError
from dto.cluster.node.metadata import Metadata, Notice, parse_notice
from dto.cluster.node.trouble import Trouble

NOTICE = '{"action": "terminate", "time": "2026-01-01T12:02:00Z"}'
AT = 1767268920.0


class Service(BaseHTTPRequestHandler):
    """Like Amazon's: no answer without a token that it gave itself."""

    server: FakeService

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token"
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"].isdigit()
        self.server.tokens += 1
        self._say(200, f"token-{self.server.tokens}")

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != f"token-{self.server.tokens}":
            self._say(401, "")
        elif self.path in self.server.pages:
            self._say(*self.server.pages[self.path])
        else:
            self._say(404, "")

    def _say(self, code: int, text: str) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args: object) -> None:
        pass


class FakeService(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Service)
        self.tokens = 0
        self.pages: dict[str, tuple[int, str]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def service() -> Iterator[FakeService]:
    with FakeService() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


ACTION = "/latest/meta-data/spot/instance-action"


def test_nothing_is_there_until_the_notice_comes(service: FakeService):
    metadata = Metadata(service.url)
    assert metadata.notice(0.0) is None and not metadata.is_at_risk()
    service.pages[ACTION] = (200, NOTICE)
    assert metadata.notice(0.0) == Notice("terminate", AT)
    assert service.tokens == 1, "a token lasts"


def test_a_token_that_ran_out_is_fetched_again(service: FakeService):
    metadata = Metadata(service.url)
    metadata.notice(0.0)
    service.tokens += 1  # the one we have is old now
    service.pages[ACTION] = (200, NOTICE)
    assert metadata.notice(0.0) == Notice("terminate", AT)


def test_a_rebalance_recommendation_is_seen(service: FakeService):
    service.pages["/latest/meta-data/events/recommendations/rebalance"] = (200, "{}")
    assert Metadata(service.url).is_at_risk()


def test_a_service_that_fails_or_is_not_there_is_told_in_one_line(service: FakeService):
    service.pages[ACTION] = (500, "")
    with pytest.raises(UnreachableError, match="answers 500"):
        Metadata(service.url).notice(0.0)
    with pytest.raises(UnreachableError, match="does not answer"):
        Metadata("http://127.0.0.1:9").notice(0.0)


def test_a_proxy_is_never_asked(service: FakeService, monkeypatch: pytest.MonkeyPatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert Metadata(service.url).notice(0.0) is None


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"action": "stop", "time": "soon"}'])
def test_a_notice_that_cannot_be_read_is_a_notice_all_the_same(text: str):
    assert parse_notice(text, 1000.0) == Notice("taken away", 1120.0)


def test_the_reason_of_the_drain_is_one_that_slurm_keeps_and_we_know_again():
    words = f"{slurm.OURS} {Notice('terminate', AT).words()}"
    kept = slurm.reason_text(words)
    assert kept == words == "dto: spot notice: terminate at 12:02:00 UTC"
    node = slurm.NodeState("n1", "10.0.0.2", frozenset({"IDLE", "DRAIN"}), kept)
    assert node.has_reason(spot.REASON)


@pytest.mark.parametrize(("until", "leaving"), [(60.0, True), (-60.0, True), (-6000.0, False)])
def test_a_machine_leaves_until_long_after_its_time(tmp_path: Path, until: float, leaving: bool):
    note = tmp_path / "dto/leaving.json"
    assert not spot.is_leaving(note)
    spot._note("spot notice: terminate", time.time() + until, note)
    assert spot.is_leaving(note) is leaving


def test_only_a_node_that_left_and_stays_silent_is_forgotten():
    def node(name: str, flags: str, reason: str) -> slurm.NodeState:
        return slurm.NodeState(name, "10.0.0.2", frozenset(flags.split("+")), reason)

    nodes = [
        node("left", "DOWN+DRAIN", "dto: spot notice: terminate at 12:02:00 UTC"),
        node("lives", "IDLE+DRAIN", "dto: spot notice: terminate at 12:02:00 UTC"),
        node("broken", "DOWN+DRAIN", "a new fan"),
        node("cut", "DOWN+NOT_RESPONDING", "Not responding"),
        node("taken", "DOWN+DRAIN", "dto: gone: the cloud has taken i-1"),
    ]
    memory = gone.Gone(300.0)

    def ripe(now: float, dead: tuple[str, ...]) -> list[str]:
        return [one.name for one in memory.ripe(nodes, lambda one: one.name in dead, now)]

    others = ("broken", "cut")
    assert ripe(0.0, ("left", *others)) == []
    assert ripe(200.0, others) == [], "it answered again: its time starts anew"
    assert ripe(250.0, ("left", *others)) == []
    assert ripe(549.0, ("left", *others)) == []
    assert ripe(551.0, ("left", *others)) == ["left"]
    assert ripe(600.0, ("taken",)) == ["taken"], "the cloud itself has said so"


def test_a_trouble_is_told_when_it_is_new_and_once(caplog: pytest.LogCaptureFixture):
    trouble = Trouble(logging.getLogger("dto.test").warning, NodeError)
    for words in ("no way", "no way", "", "no way", "no bread"):
        with trouble:
            if words:
                raise NodeError(words)
    assert [entry.message for entry in caplog.records] == ["no way", "no way", "no bread"]
    assert trouble.words == "no bread"
    with pytest.raises(KeyError), trouble:
        raise KeyError("another kind")
