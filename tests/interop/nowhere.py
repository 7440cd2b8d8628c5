"""The way out, closed: a proxy that notes where clients want to go and lets nobody through."""

import contextlib
import socketserver
import threading
from collections.abc import Iterator


class _Door(socketserver.StreamRequestHandler):
    timeout = 5

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            line = self.rfile.readline(4096).decode("latin-1").split()
            self.server.asked.append(" ".join(line[:2]))
            self.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


class Nowhere(socketserver.ThreadingTCPServer):
    """`asked`: what was to be reached, a line each; `env`: sends a client this way."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Door)
        self.asked: list[str] = []

    def taken(self) -> list[str]:
        """What was to be reached since the last call."""
        asked, self.asked = self.asked, []
        return asked

    @property
    def env(self) -> dict[str, str]:
        url = f"http://127.0.0.1:{self.server_address[1]}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        either = {name: url for upper in names for name in (upper, upper.lower())}
        here = dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost")
        return {**either, **here, "NODE_USE_ENV_PROXY": "1"}


@contextlib.contextmanager
def nowhere() -> Iterator[Nowhere]:
    with Nowhere() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="nowhere")
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
