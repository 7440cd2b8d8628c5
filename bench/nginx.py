"""nginx as the proxy to compare with, and as an engine fast enough for the rate of requests."""

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import procs
import wire
import wire_openai

HOW_TO_INSTALL = (
    "nginx is not installed (Debian: apt install nginx-light; macOS: brew install nginx)"
)

_COMMON = """
daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {home}/nginx.pid;
error_log {home}/error.log warn;
{user}
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    keepalive_requests 100000000;
    keepalive_timeout 300s;
    client_max_body_size 256m;
    tcp_nodelay on;
{servers}
}}
"""

_PROXY = """
    upstream {name} {{
        least_conn;
{nodes}
        keepalive 1024;
        keepalive_requests 100000000;
        keepalive_timeout 300s;
    }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://{name};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_read_timeout 300s;
        }}
    }}
"""

_ENGINE = """
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        default_type application/json;
        location / {{ return 200 '{answer}'; }}
        location /v1/chat/ {{ return 200 '{openai_answer}'; }}
        location = /v1/models {{ return 200 '{{"object":"list","data":[{{"id":"{model}"}}]}}'; }}
        location = /health {{ return 200 '{{}}'; }}
    }}
"""


def executable() -> str | None:
    """Debian puts it where only root's PATH looks."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


class Nginx:
    """A running nginx, in the foreground as a child, with one worker."""

    def __init__(self, home: Path, servers: str, ports: Sequence[int], core: int | None) -> None:
        home.mkdir(parents=True)
        files = procs.raise_file_limit()
        config = home / "nginx.conf"
        config.write_text(
            _COMMON.format(
                home=home,
                servers=servers,
                files=files,
                connections=min(files, 60000) - 100,
                user="user root;" if hasattr(os, "geteuid") and os.geteuid() == 0 else "",
            )
        )
        command = [executable() or "nginx", "-p", str(home), "-c", str(config)]
        log = (home / "stderr.log").open("wb")
        with procs.on_core(core), log:
            self.process = subprocess.Popen(
                [*command, "-e", str(home / "error.log")],
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        for port in ports:
            procs.wait_for_port(port, self.process)

    def stop(self) -> None:
        procs.stop(self.process)


class NginxProxy(Nginx):
    """The comparison: least_conn over the nodes, no buffering, connections kept to the nodes."""

    def __init__(
        self, home: Path, engines: Sequence[int], fast: Sequence[int], core: int | None
    ) -> None:
        self.port = procs.free_port()
        self.fast_port = procs.free_port()
        servers = _proxied("nodes", self.port, engines)
        if fast:
            servers += _proxied("fast", self.fast_port, fast)
        super().__init__(home, servers, [self.port], core)


def _proxied(name: str, port: int, engines: Sequence[int]) -> str:
    nodes = "\n".join(f"        server 127.0.0.1:{engine};" for engine in engines)
    return _PROXY.format(name=name, port=port, nodes=nodes)


class NginxEngine(Nginx):
    """Two ports that give the 1 KB answer to anything, faster than any proxy can ask."""

    def __init__(self, home: Path, core: int | None) -> None:
        self.ports = [procs.free_port(), procs.free_port()]
        answers = {
            "answer": wire.answer(0).decode(),
            "openai_answer": wire_openai.answer(0).decode(),
            "model": wire.MODEL,
        }
        servers = "".join(_ENGINE.format(port=port, **answers) for port in self.ports)
        super().__init__(home, servers, self.ports, core)
