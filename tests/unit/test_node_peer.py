"""Hosts that check each other: the conversation, who is refused, and the all-reduce."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dto.cluster.node import allreduce, peer
from dto.cluster.node.errors import MungeError, UnreachableError
from dto.cluster.node.munge import parse_unmunge

pytestmark = pytest.mark.timeout(60)


def cipher(key: str) -> peer.Cipher:
    """As munge does it: who has another key cannot read."""

    def unseal(words: str) -> str:
        if not words.startswith(key):
            raise MungeError("munge refuses: Invalid credential")
        return words.removeprefix(key)

    return peer.Cipher(seal=lambda words: key + words, unseal=unseal)


@contextmanager
def serving(key: str = "k:", **answers: peer.Answer) -> Iterator[int]:
    with peer.PeerServer(("127.0.0.1", 0), answers, cipher(key)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def test_a_question_is_answered_with_the_clock():
    with serving(hello=lambda asked: {"mark": asked["name"]}) as port:
        answer = peer.ask("127.0.0.1", port, "hello", cipher("k:"), name="n1")
    assert answer["mark"] == "n1"
    assert abs(answer["skew"]) < 5


def test_another_key_is_refused_on_both_sides():
    with serving() as port, pytest.raises(MungeError, match="munge key"):
        peer.ask("127.0.0.1", port, "hello", cipher("other:"))


def test_nobody_there_is_said():
    with pytest.raises(UnreachableError, match="does not answer"):
        peer.ask("127.0.0.1", 9, "hello", cipher("k:"))


def test_a_recorded_question_is_worth_nothing_later():
    with serving(hello=lambda asked: {}) as port:
        old = json.dumps({"what": "hello", "nonce": "0" * 32, "mine": "x"})
        with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
            link.recv(4096)
            link.sendall(json.dumps({"sealed": "k:" + old}).encode() + b"\n")
            assert link.recv(4096) == b""


def test_what_a_host_does_not_know_it_refuses():
    with serving() as port:
        answer = peer.ask("127.0.0.1", port, "gate", cipher("k:"), name="n1", reason="")
    assert answer["refused"] == "gate is not known here"


def test_two_hosts_reduce_to_the_right_numbers():
    with serving() as port:
        result = peer.reduce_with("127.0.0.1", port, cipher("k:"))
    assert result.is_right and result.gbps > 0


@pytest.mark.parametrize("size", [2, 7, 1000, 100_001])
def test_an_all_reduce_is_the_same_on_both_sides(size: int):
    one, two = socket.socketpair()
    left, right = (allreduce.buffer(seed, size) for seed in ("a", "b"))
    found: list[bytes] = []
    with one, two:
        other = threading.Thread(
            target=lambda: found.append(allreduce.all_reduce(two, right, is_first=False))
        )
        other.start()
        mine = allreduce.all_reduce(one, left, is_first=True)
        other.join()
    assert found == [mine] == [allreduce.xor(left, right)]


def test_the_signer_is_read_out_of_unmunges_words():
    text = "STATUS:          Success (0)\nUID:             root (0)\nLENGTH: 2\n\nhi\n"
    assert parse_unmunge(text) == (0, "hi")
    assert parse_unmunge(text.replace("root (0)", "alice (2001)")) == (2001, "hi")
    with pytest.raises(MungeError):
        parse_unmunge("nothing")
