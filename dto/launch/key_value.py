"""The key-value store in which Horovod's ranks find each other (its http_store.cc)."""

from __future__ import annotations

import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_LARGEST_VALUE = 1 << 20


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # all ranks of a world come at once

    def __init__(self, host: str) -> None:
        super().__init__((host, 0), _Handler)
        self.values: dict[str, bytes] = {}
        self.allowed: set[str] = {"127.0.0.1"}


class _Handler(BaseHTTPRequestHandler):
    """GET, PUT and DELETE of /scope/key; Horovod asks every 10 ms for a key not there yet."""

    server: _Server
    timeout = 30.0

    def do_GET(self) -> None:
        if self._is_allowed():
            value = self.server.values.get(self.path)
            self._answer(HTTPStatus.OK if value is not None else HTTPStatus.NOT_FOUND, value or b"")

    def do_PUT(self) -> None:
        if self._is_allowed():
            length = int(self.headers.get("Content-Length", 0))
            if not 0 <= length <= _LARGEST_VALUE:
                self._answer(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
                return
            self.server.values[self.path] = self.rfile.read(length)
            self._answer(HTTPStatus.OK)

    def do_DELETE(self) -> None:
        if self._is_allowed():
            self.server.values.pop(self.path, None)
            self._answer(HTTPStatus.OK)

    def log_message(self, format: str, *args: object) -> None:
        """Hundreds of polls a second are not worth a line each."""

    def _is_allowed(self) -> bool:
        """The protocol knows no secret, so only this job's own machines may speak."""
        allowed = self.client_address[0] in self.server.allowed
        if not allowed:
            self._answer(HTTPStatus.FORBIDDEN)
        return allowed

    def _answer(self, status: HTTPStatus, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class KeyValueServer:
    """Serves from its own threads until closed."""

    def __init__(self, host: str) -> None:
        self._server = _Server(host)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="dto-key-value", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def allow(self, address: str) -> None:
        self._server.allowed.add(address)

    def clear(self) -> None:
        """Forget everything: a new generation must not meet the addresses of the old one."""
        self._server.values.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
