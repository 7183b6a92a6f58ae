"""Amazon's metadata service as far as dto and boto3 ask it, for one machine of a lab.

Usage: metadata_service.py ADDRESS FILE [ANSWERS]: there is a spot notice as soon as there is that
FILE; ANSWERS is JSON, from a path below /latest/meta-data/ to its text.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_TOKEN = "a-token-of-this-service"
_FOLDER = "/latest/meta-data/"


class Service(BaseHTTPRequestHandler):
    notice: Path
    answers: dict[str, str] = {}

    def do_PUT(self) -> None:
        is_right = self.path == "/latest/api/token"
        self._say(200 if is_right else 404, _TOKEN if is_right else "")

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != _TOKEN:
            self._say(401, "")
        elif self.path == f"{_FOLDER}spot/instance-action" and self.notice.is_file():
            self._say(200, self.notice.read_text())
        elif (name := self.path.removeprefix(_FOLDER)) in self.answers:
            self._say(200, self.answers[name])
        else:
            self._say(404, "")

    def _say(self, code: int, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


if __name__ == "__main__":
    Service.notice = Path(sys.argv[2])
    if sys.argv[3:]:
        Service.answers = json.loads(Path(sys.argv[3]).read_text())
    ThreadingHTTPServer((sys.argv[1], 80), Service).serve_forever()
