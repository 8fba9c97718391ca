"""A server that speaks as much of the hub's HTTP as a download asks for: metadata, whole files, ranges, and faults."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "89abcdef0123456789abcdef0123456789abcdef"


@dataclass
class Hub:
    """Files by ``repository/file``, what was asked for, and how far a transfer gets before the line breaks."""

    files: dict[str, bytes]
    url: str = ""
    breaks: int = 0  # transfers still to be broken off,
    breaks_at: int = 0  # at this byte of the file
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, repository/file, range

    def ranges(self, name: str) -> list[str | None]:
        """Of every transfer of a file that was asked for."""
        return [wanted for method, asked, wanted in self.asked if method == "GET" and asked == name]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer("HEAD")

        def do_GET(self) -> None:
            self._answer("GET")

        def _answer(self, method: str) -> None:
            match = re.fullmatch(r"/(.+?)/resolve/[^/]+/(.+)", self.path)
            name = f"{match[1]}/{match[2]}" if match else self.path
            wanted = self.headers.get("Range")
            hub.asked.append((method, name, wanted))
            content = hub.files.get(name)
            if content is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            first = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
            self.send_response(206 if wanted else 200)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Linked-Size", str(len(content)))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(content) - first))
            if wanted:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if method == "GET":
                broken = hub.breaks > 0
                hub.breaks -= broken
                self.wfile.write(content[first : hub.breaks_at if broken else None])
                self.close_connection = broken

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
