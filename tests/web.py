"""A web server on this machine that serves parts of files, breaks off, changes its mind and gives errors."""

import contextlib
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Site:
    """What it serves, and how. cuts: bytes after which the next replies break off (None = whole), one for each.

    ranges: whether parts are served; tag: ETag; date: Last-Modified; sized: whether replies have a Content-Length.
    asked: (path, Range, If-Range) of each request, in order.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int | None] = field(default_factory=list)
    ranges: bool = True
    tag: str | None = '"1"'
    date: str | None = None
    sized: bool = True
    status: int = 200
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    url: str = ""


def _handler(site: Site) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            path, wanted, condition = self.path.lstrip("/"), self.headers["Range"], self.headers["If-Range"]
            site.asked.append((path, wanted, condition))
            if site.status != 200 or path not in site.files:
                self.send_error(site.status if site.status != 200 else 404)
                return
            content = site.files[path]
            part = re.fullmatch(r"bytes=(\d+)-", wanted or "") if site.ranges else None
            start = int(part[1]) if part and condition in (None, site.tag, site.date) else 0
            if start >= len(content) > 0:
                self.send_error(416)
                return
            self._reply(content, start)

        def _reply(self, content: bytes, start: int) -> None:
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            for name, value in (("ETag", site.tag), ("Last-Modified", site.date)):
                if value:
                    self.send_header(name, value)
            if site.sized:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            cut = site.cuts.pop(0) if site.cuts else None
            self.wfile.write(content[start:] if cut is None else content[start : start + cut])

    return Handler


@contextlib.contextmanager
def serve() -> Iterator[Site]:
    """A running site; its address is site.url and ends in '/'."""
    site = Site()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/"
    yield site
    server.shutdown()
    thread.join()
    server.server_close()
