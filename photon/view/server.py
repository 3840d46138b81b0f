"""The page of a model and a scan, served to this machine only.

Python's own HTTP server: one reader, a handful of addresses, no file is ever opened for a request.
Every address begins with a token that is drawn anew each time, so that other pages in the same
browser cannot ask.
"""

from __future__ import annotations

import hmac
import json
import secrets
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from photon.errors import InputError
from photon.view.desk import Desk, as_line
from photon.view.page import ASSETS

KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".txt": "text/plain"}
LONGEST = 64 * 1024  # bytes of a request
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def make_server(desk: Desk, port: int = 0) -> tuple[ThreadingHTTPServer, str]:
    """A server on 127.0.0.1 for the page of `desk`, and its address; port 0 takes any free one.

    Raises InputError where the port is taken.
    """
    token = secrets.token_urlsafe(24)
    fixed = {path.name: path.read_bytes() for path in ASSETS.iterdir()}
    fixed["volumes/0.js"] = desk.volume().encode()
    files: dict[str, Callable[[], bytes]] = {name: lambda b=b: b for name, b in fixed.items()}
    files[""] = files["index.html"]
    files["data.js"] = lambda: f"const PHOTON = {json.dumps(desk.data())};\n".encode()

    class Page(_Page):
        pass

    Page.desk, Page.files, Page.token = desk, files, token
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Page)
    except (OSError, OverflowError) as error:
        raise InputError(f"--port {port}: cannot be listened on ({error}); leave it out") from error
    server.daemon_threads = True
    return server, f"http://127.0.0.1:{server.server_address[1]}/{token}/"


class _Page(BaseHTTPRequestHandler):
    """GET one of `files`; POST to one of the desk's methods, answered in lines of JSON."""

    desk: Desk
    files: Mapping[str, Callable[[], bytes]]
    token: str

    def do_GET(self) -> None:
        """A file by its exact name."""
        name = self._name()
        if name not in self.files:
            return self._say(HTTPStatus.NOT_FOUND, "no such page")
        kind = KINDS["." + (name or "index.html").rpartition(".")[2]]
        self._say(HTTPStatus.OK, self.files[name](), f"{kind}; charset=utf-8")

    def do_POST(self) -> None:
        """One of the desk's methods by its exact name."""
        name = self._name()
        if name not in ("ask", "again", "select", "forget"):
            return self._say(HTTPStatus.NOT_FOUND, "no such page")
        try:
            length = int(self.headers.get("Content-Length", ""))
            if not 0 <= length <= LONGEST:
                raise ValueError
            request = json.loads(self.rfile.read(length))
            if not isinstance(request, dict):
                raise ValueError
        except ValueError:
            return self._say(HTTPStatus.BAD_REQUEST, "not a request of this page")
        self._begun = False
        try:
            getattr(self.desk, name)(request, self._tell)
        except InputError as error:
            self._fail(str(error))
        except (BrokenPipeError, ConnectionResetError):
            pass  # the page was closed before its answer came
        except Exception as error:
            print(f"error: {name}: {error!r}", file=sys.stderr)
            self._fail(f"{type(error).__name__}: {error}")

    def _name(self) -> str | None:
        """What follows the token in the address; None for another token."""
        token, slash, name = self.path.partition("?")[0].removeprefix("/").partition("/")
        right = hmac.compare_digest(token.encode(), self.token.encode())
        return name if slash and right else None

    def _tell(self, told: dict) -> None:
        if not self._begun:
            self._head(HTTPStatus.OK, "application/x-ndjson")
            self._begun = True
        self.wfile.write(as_line(told))
        self.wfile.flush()

    def _fail(self, text: str) -> None:
        if self._begun:
            self.wfile.write(as_line({"error": text}))
        else:
            self._say(HTTPStatus.UNPROCESSABLE_ENTITY, text)

    def _say(self, status: HTTPStatus, body: bytes | str, kind: str = "text/plain") -> None:
        body = body if isinstance(body, bytes) else body.encode()
        self._head(status, kind, {"Content-Length": str(len(body))})
        self.wfile.write(body)

    def _head(self, status: HTTPStatus, kind: str, more: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, **HEADERS, **(more or {})}.items():
            self.send_header(key, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Requests are not printed: their addresses hold the token."""


def serve(export: str, scan: str, store: str, port: int = 0, max_new_tokens: int = 64) -> int:
    """Load, print the address, and serve until interrupted; returns 0."""
    from transformers.utils.logging import disable_progress_bar

    from photon.volume.sources import kind_of
    from photon.volume.store import VolumeStore
    from photon.weights.checkpoints import load_export
    from photon.weights.trained_on import trained_on, unlike_scan

    disable_progress_bar()
    if kind_of(scan) != "volume":
        raise InputError(f"{scan}: the page draws volumes; for images take python -m photon ask")
    model = load_export(export)
    prepared = VolumeStore(store, model.preparation)
    notes = unlike_scan(trained_on(export), prepared.load_hu(scan))
    desk = Desk(model, prepared, scan, max_new_tokens, tuple(notes))
    server, address = make_server(desk, port)
    print(f"{address}  (this machine only; Ctrl+C ends it)", flush=True)
    with server:
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended", file=sys.stderr)
    return 0
