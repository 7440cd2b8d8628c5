"""A PostgreSQL server of our own for the length of a test run, on a socket in its own folder."""

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from ollama_herd.clock import monotonic_s


def programs() -> Path | None:
    """The folder of `initdb` and `postgres`; distributions keep it off the PATH."""
    found = shutil.which("initdb")
    candidates = [Path(found).parent] if found else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


class Server:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()

    def new_database(self) -> str:
        """URL of an empty database."""
        name = f"herd_{next(self._numbers)}"
        with psycopg.connect(self._dsn("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://herd@/{name}?host={self._folder}"

    def _dsn(self, database: str) -> str:
        return f"host={self._folder} user=herd dbname={database}"

    def wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = monotonic_s() + 30
        while True:
            try:
                psycopg.connect(self._dsn("postgres")).close()
            except psycopg.OperationalError:
                assert process.poll() is None, "postgres ended"
                assert monotonic_s() < deadline, "postgres does not answer"
                time.sleep(0.05)
            else:
                return


@contextmanager
def running(bin_folder: Path) -> Iterator[Server]:
    folder = Path(tempfile.mkdtemp(prefix="herd-pg-"))
    as_user = _unprivileged(folder)
    data = folder / "data"
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
    process = None
    try:
        subprocess.run(
            [bin_folder / "initdb", "-D", data, "-U", "herd", "--auth=trust", "--no-sync"],
            check=True,
            cwd=folder,
            **quiet,
            **as_user,
        )
        process = subprocess.Popen(
            [bin_folder / "postgres", "-D", data, "-k", folder, "-h", "", "-F"],
            cwd=folder,
            **quiet,
            **as_user,
        )
        server = Server(folder)
        server.wait(process)
        yield server
    finally:
        if process is not None:
            process.terminate()  # waits for clients to go; kill ends it in any case
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _unprivileged(folder: Path) -> dict[str, Any]:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
