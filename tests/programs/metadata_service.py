"""Amazon's metadata service as far as spot machines ask it, for one machine of a lab.

Usage: metadata_service.py ADDRESS FILE: there is a notice as soon as there is that file.
"""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_TOKEN = "a-token-of-this-service"


class Service(BaseHTTPRequestHandler):
    notice: Path

    def do_PUT(self) -> None:
        is_right = self.path == "/latest/api/token"
        self._say(200 if is_right else 404, _TOKEN if is_right else "")

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != _TOKEN:
            self._say(401, "")
        elif self.path == "/latest/meta-data/spot/instance-action" and self.notice.is_file():
            self._say(200, self.notice.read_text())
        else:
            self._say(404, "")

    def _say(self, code: int, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    Service.notice = Path(sys.argv[2])
    ThreadingHTTPServer((sys.argv[1], 80), Service).serve_forever()
