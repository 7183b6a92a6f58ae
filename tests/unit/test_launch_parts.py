"""Host lists, ports, log tails, tracebacks, the key-value store and the wire."""

from __future__ import annotations

import asyncio
import http.client
import io
from pathlib import Path

import pytest

from dto.errors import DtoError
from dto.launch.hostlist import expand_hostlist
from dto.launch.hub import Hub
from dto.launch.key_value import KeyValueServer
from dto.launch.network import free_ports, interface_of, own_addresses
from dto.launch.notes import progress_line
from dto.launch.output import Console, LogTail
from dto.launch.spec import Spec
from dto.launch.traces import find_cause, find_exception
from dto.launch.wire import LINE_LIMIT, Channel, greet_coordinator
from tests.helpers import cannot


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", []),
        ("n1", ["n1"]),
        ("gpu[01-03,7]", ["gpu01", "gpu02", "gpu03", "gpu7"]),
        ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"]),
        ("gpu-a[01-02]-x,b", ["gpu-a01-x", "gpu-a02-x", "b"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
    ],
)
def test_host_lists_are_spelled_out(text: str, names: list[str]) -> None:
    assert expand_hostlist(text) == names


@pytest.mark.parametrize("text", ["n[1-", "n[2-1]", "n[a]", "n1]", "n[]"])
def test_a_broken_host_list_is_refused(text: str) -> None:
    with pytest.raises(DtoError, match="not a list of nodes"):
        expand_hostlist(text)


def test_free_ports_lie_below_the_ephemeral_range() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = free_ports(20)
    assert len(set(ports)) == 20
    assert all(10_000 <= port < max(low, 32_768) for port in ports)


def test_interfaces_are_found_by_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("203.0.113.9") == ""
    assert own_addresses()[-1] == ("lo", "127.0.0.1")


def test_the_last_exception_of_a_log() -> None:
    log = (
        "step 1\nTraceback (most recent call last):\n  File 'a', line 1\nKeyError: 'x'\n\n"
        "During handling of the above exception, another exception occurred:\n\n"
        "Traceback (most recent call last):\n  File 'b', line 2, in f\n    boom()\n    ^^^^\n"
        "torch.OutOfMemoryError: CUDA out of memory\nTried to allocate 2 GiB\nbye\n"
    )
    assert find_exception(log) == ("torch.OutOfMemoryError", "CUDA out of memory")


def test_a_traceback_under_torchs_prefix() -> None:
    log = (
        "[rank1]: Traceback (most recent call last):\n[rank1]:   File 'a'\n[rank1]: KeyError: 'x'\n"
    )
    assert find_exception(log) == ("KeyError", "'x'")


def test_an_exception_without_words_and_no_exception() -> None:
    assert find_exception("Traceback (most recent call last):\n  x\nKeyboardInterrupt\n") == (
        "KeyboardInterrupt",
        "",
    )
    assert find_exception("all fine\n") == ("", "")
    assert find_cause("all fine\nsrc: No module named x\n\n") == ("", "src: No module named x")


def test_a_log_is_tailed_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = LogTail(path, 0)
    assert tail.poll() == []
    with open(path, "ab", buffering=0) as log:
        log.write(b"one\ntw")
        assert tail.poll() == [b"one"]
        log.write(b"o\n10%\r50%\r100%\n\xff\nend")
        assert tail.poll() == [b"two", b"100%", b"\xff"]
    assert tail.poll(is_last=True) == [b"end"]


def test_console_lines_carry_their_rank_and_a_closed_pipe_is_no_matter() -> None:
    plain, coloured = io.BytesIO(), io.BytesIO()
    Console(plain, is_terminal=False).write(12, [b"a", b"b"])
    Console(coloured, is_terminal=True).write(0, [b"a"])
    assert plain.getvalue() == b"[12] a\n[12] b\n"
    assert coloured.getvalue().startswith(b"\r\x1b[K") and b"[0]" in coloured.getvalue()

    class Closed(io.BytesIO):
        def write(self, _: object) -> int:
            raise BrokenPipeError

    console = Console(Closed(), is_terminal=False)
    console.write(0, [b"a"])
    console.write(0, [b"b"])


def test_the_progress_line() -> None:
    metric = {
        "step": 120,
        "total_steps": 600,
        "values": {"loss": 0.1234, "samples_per_second": 2345.4, "lr": 0.1},
    }
    line = "step 120/600  loss 0.1234  2,345 samples/s"
    assert progress_line(metric, 12.4) == f"{line}  ETA 0:12"
    assert progress_line(metric, 3_725.0) == f"{line}  ETA 1:02:05"
    assert progress_line({"step": 3}, None) == "step 3"


def test_the_store_keeps_values_until_it_is_cleared() -> None:
    server = KeyValueServer("127.0.0.1")
    try:
        assert _ask(server, "GET", "/global/0") == (404, b"")
        assert _ask(server, "PUT", "/global/0", b"\x00address") == (200, b"")
        assert _ask(server, "GET", "/global/0") == (200, b"\x00address")
        assert _ask(server, "DELETE", "/global/0") == (200, b"")
        assert _ask(server, "GET", "/global/0") == (404, b"")
        _ask(server, "PUT", "/a/b", b"1")
        server.clear()
        assert _ask(server, "GET", "/a/b")[0] == 404
    finally:
        server.close()


def test_the_store_refuses_strangers() -> None:
    address = own_addresses()[0][1]
    if address.startswith("127."):
        cannot("this machine has only a loopback address")
    server = KeyValueServer("0.0.0.0")
    try:
        assert _ask(server, "PUT", "/a/b", b"1", host=address)[0] == 403
        server.allow(address)
        assert _ask(server, "PUT", "/a/b", b"1", host=address)[0] == 200
    finally:
        server.close()


def _ask(
    server: KeyValueServer, method: str, path: str, body: bytes = b"", host: str = "127.0.0.1"
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, server.port, timeout=5)
    connection.request(method, path, body or None)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.mark.parametrize(("token", "is_let_in"), [("right", True), ("wrong", False)])
def test_only_who_knows_the_token_is_let_in(token: str, is_let_in: bool) -> None:
    async def talk() -> tuple[bool, bool]:
        hub = Hub("right", heartbeat_timeout=5)
        port = await hub.open("127.0.0.1")
        streams = await asyncio.open_connection("127.0.0.1", port, limit=LINE_LIMIT)
        channel = Channel(*streams)
        greeted = await greet_coordinator(channel, token)
        channel.send("hello", node="n1", index=0)
        event = await hub.next_event(0.5)
        channel.close()
        await hub.close()
        return greeted, event is not None and event.kind == "joined"

    assert asyncio.run(talk()) == (is_let_in, is_let_in)


def test_an_agent_tells_a_stranger_from_its_coordinator() -> None:
    """Another service at a candidate address never sees the token, and is not believed."""

    async def talk() -> bool:
        async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b'{"type": "challenge", "nonce": "1"}\n')
            answer = await reader.readline()
            assert b"secret" not in answer
            writer.write(b'{"type": "welcome", "proof": "guess"}\n')
            writer.close()

        server = await asyncio.start_server(impostor, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        channel = Channel(*await asyncio.open_connection("127.0.0.1", port))
        found = await greet_coordinator(channel, "secret")
        channel.close()
        server.close()
        await server.wait_closed()
        return found

    assert asyncio.run(talk()) is False


def test_a_silent_member_is_lost() -> None:
    async def talk() -> list[str]:
        hub = Hub("t", heartbeat_timeout=0.1)
        port = await hub.open("127.0.0.1")
        channel = Channel(*await asyncio.open_connection("127.0.0.1", port, limit=LINE_LIMIT))
        assert await greet_coordinator(channel, "t")
        channel.send("hello", node="n1", index=0)
        kinds = []
        while len(kinds) < 2:
            event = await hub.next_event(0.05)
            hub.check_heartbeats()
            kinds += [event.kind] if event else []
        channel.close()
        await hub.close()
        return kinds

    assert asyncio.run(asyncio.wait_for(talk(), 10)) == ["joined", "lost"]


def test_a_search_path_into_the_tree_leads_into_its_copy(tmp_path: Path) -> None:
    tree, copy = tmp_path / "tree", tmp_path / "copy"
    for folder in (tree / "src", tree / ".venv", tree / "scripts", copy / "src"):
        folder.mkdir(parents=True)
    spec = Spec("python", cwd=str(tree / "scripts"), tree=str(tree))
    entries = ["..", "../src", str(tree / "src"), str(tree / ".venv"), "/opt/lib", "gone"]
    found = spec.search_path(":".join(entries), copy).split(":")
    assert found == [str(copy), *[str(copy / "src")] * 2, *entries[3:]]
    assert Spec("python", cwd=str(tree)).search_path("..:src", copy) == "..:src"
