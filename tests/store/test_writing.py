"""The writer: nothing that happens to a database reaches `put`, and little is ever lost."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from ollama_herd.clock import monotonic_s
from ollama_herd.store.database import FILE_NAME, Database, open_database
from ollama_herd.store.errors import StoreError
from ollama_herd.store.traces import TraceStore, open_traces
from tests.store import samples
from tests.store.conftest import KEEP_ALL
from tests.store.waiting import wait_until


def put_many(store: TraceStore, count: int) -> list[str]:
    """Ids in the order of putting."""
    made = [samples.trace(started_s=samples.START_S + n) for n in range(count)]
    for trace in made:
        store.put(trace)
    return [trace.request.request_id for trace in made]


def ids_by_row(database: Database) -> list[str]:
    with database.transaction() as connection:
        query = "SELECT request_id FROM traces ORDER BY id"
        return list(connection.exec_driver_sql(query).scalars())


def ids_in(home: Path) -> list[str]:
    database = open_database(home)
    found = ids_by_row(database)
    database.close()
    return found


def test_rows_are_in_the_order_of_putting(store: TraceStore, database: Database) -> None:
    ids = put_many(store, 5234)  # several batches, whole calls and a remainder
    wait_until(lambda: store.health().written == len(ids))
    assert ids_by_row(database) == ids
    assert [trace.request_id for trace in store.recent(limit=3)] == ids[:-4:-1]


def test_closing_writes_what_waits(store: TraceStore, database: Database) -> None:
    ids = put_many(store, 3001)
    assert store.close(timeout_s=60) is True
    assert ids_by_row(database) == ids
    points = store.trend(0, 4e9)
    assert sum(point.requests for point in points) == len(ids)


def test_health_tells_how_things_are(store: TraceStore, database: Database) -> None:
    put_many(store, 10)
    wait_until(lambda: store.health().written == 10)
    health = store.health()
    assert (health.dropped, health.pending, health.last_error) == (0, 0, "")
    wait_until(lambda: store.health().file_bytes > 0)
    assert database.size_bytes() > 10_000


def test_an_idle_store_does_not_wake_up(store: TraceStore) -> None:
    put_many(store, 1)
    wait_until(lambda: store.health().written == 1)
    store.close()  # ends at once although the next look at the house is minutes away
    assert store.health().pending == 0


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database " * 500)
    store = open_traces(Database(tmp_path), KEEP_ALL, capacity=100)
    put_many(store, 250)
    assert (store.health().dropped, store.health().pending) == (150, 100)
    assert store.close(timeout_s=0.2) is False
    assert store.health().dropped == 250


async def test_put_returns_at_once_while_the_database_is_locked(tmp_path: Path) -> None:
    open_database(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        store = open_traces(Database(tmp_path, busy_timeout_s=0.2), KEEP_ALL)
        put_many(store, 100)
        await asyncio.to_thread(wait_until, lambda: "locked" in store.health().last_error)
        begin = monotonic_s()
        put_many(store, 1000)
        assert monotonic_s() - begin < 0.5
        assert store.health().written == 0
        other.execute("ROLLBACK")
    await asyncio.to_thread(wait_until, lambda: store.health().written == 1100)
    await asyncio.to_thread(wait_until, lambda: store.health().last_error == "")
    assert store.health().dropped == 0
    assert await asyncio.to_thread(store.close, 60)


def test_a_damaged_file_is_said_and_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / FILE_NAME
    content = b"not a database " * 500
    file.write_bytes(content)
    store = open_traces(Database(tmp_path), KEEP_ALL)
    ids = put_many(store, 20)
    wait_until(lambda: "damaged" in store.health().last_error)
    assert file.read_bytes() == content
    assert "damaged" in capsys.readouterr().out
    with pytest.raises(StoreError, match="damaged"):
        store.recent()
    file.rename(tmp_path / "moved-away")
    wait_until(lambda: store.health().written == 20)
    assert store.close(timeout_s=60)
    assert ids_in(tmp_path) == ids
    assert (tmp_path / "moved-away").read_bytes() == content


def test_damage_inside_a_file_raises_nothing_else(tmp_path: Path) -> None:
    store = open_traces(Database(tmp_path), KEEP_ALL)
    put_many(store, 3000)
    assert store.close(timeout_s=60)
    file = tmp_path / FILE_NAME
    content = bytearray(file.read_bytes())
    content[4096 * 3 :] = b"\xa5" * (len(content) - 4096 * 3)
    file.write_bytes(content)
    store = open_traces(Database(tmp_path), KEEP_ALL, capacity=50)
    put_many(store, 100)
    with pytest.raises(StoreError):
        store.recent()
    store.close(timeout_s=0.5)
    health = store.health()
    assert health.written + health.dropped == 100
    assert file.exists()


def test_a_file_that_was_deleted_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollama_herd.store.thread.SIZE_INTERVAL_S", 0.0)
    store = open_traces(Database(tmp_path), KEEP_ALL)
    put_many(store, 1)
    wait_until(lambda: store.health().written == 1)
    for file in tmp_path.iterdir():
        file.unlink()
    # SQLite writes it to the deleted file, or has noticed already and it is had from the new one.
    put_many(store, 1)
    wait_until(lambda: store.health().written == 2)
    wait_until((tmp_path / FILE_NAME).exists)
    ids = put_many(store, 3)
    assert store.close(timeout_s=60)
    assert ids_in(tmp_path)[-3:] == ids


CRASHING = """
import sys
from pathlib import Path
from ollama_herd.store.database import Database
from ollama_herd.store.traces import open_traces
from tests.store import samples
from tests.store.conftest import KEEP_ALL
store = open_traces(Database(Path(sys.argv[1])), KEEP_ALL)
n = 0
while True:
    if store.health().pending < 5000:
        store.put(samples.trace(request_id=f"r-{n:09}", started_s=float(n)))
        n += 1
    if n % 100 == 0:
        print(store.health().written, flush=True)
"""


@pytest.mark.parametrize("least", [1, 20_000])
def test_a_killed_process_loses_no_committed_trace(tmp_path: Path, least: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CRASHING, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    committed = 0
    for line in process.stdout:
        if line.strip().isdigit():
            committed = int(line)
        if committed >= least:
            break
    process.kill()
    rest, _ = process.communicate(timeout=30)
    committed = max([committed, *(int(line) for line in rest.split("\n")[:-1] if line.isdigit())])

    database = open_database(tmp_path)
    with database.transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    ids = ids_by_row(database)
    assert len(ids) >= committed
    assert ids == [f"r-{n:09}" for n in range(len(ids))]
    database.close()
    after = open_traces(Database(tmp_path), KEEP_ALL)
    put_many(after, 1)
    assert after.close(timeout_s=60)


FULL = """
import resource, sys
from pathlib import Path
from ollama_herd.store.database import Database
from ollama_herd.store.traces import open_traces
from tests.store import samples
from tests.store.conftest import KEEP_ALL
from tests.store.waiting import wait_until
store = open_traces(Database(Path(sys.argv[1])), KEEP_ALL)
store.put(samples.trace())
wait_until(lambda: store.health().written == 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
for _ in range(5000):
    store.put(samples.trace())
wait_until(lambda: "full" in store.health().last_error)
assert store.health().dropped == 0, store.health()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
wait_until(lambda: store.health().written == 5001)
assert store.close(timeout_s=60)
assert store.health().last_error == ""
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no limit on the size of files")
def test_a_full_disk_is_waited_out(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    database = open_database(tmp_path)
    assert len(set(ids_by_row(database))) == 5001
    with database.transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    database.close()


def test_a_server_that_restarts_is_waited_for(postgres_url: str) -> None:
    """Every connection of the store is ended by the server."""
    mine, other = Database(postgres_url), Database(postgres_url)
    store = open_traces(mine, KEEP_ALL)
    put_many(store, 10)
    wait_until(lambda: store.health().written == 10)
    with other.transaction() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND datname = current_database()"
        )
    put_many(store, 10)
    wait_until(lambda: store.health().written == 20)
    assert store.health().dropped == 0
    assert store.close(timeout_s=60)
    assert len(ids_by_row(other)) == 20
    other.close()
    mine.close()


def test_two_routers_may_share_a_server(postgres_url: str) -> None:
    databases = [Database(postgres_url) for _ in range(2)]
    stores = [open_traces(database, KEEP_ALL) for database in databases]
    putting = [threading.Thread(target=put_many, args=(store, 2000)) for store in stores]
    for thread in putting:
        thread.start()
    for thread in putting:
        thread.join()
    assert [store.close(timeout_s=60) for store in stores] == [True, True]
    assert len(ids_by_row(databases[1])) == 4000
    assert sum(point.requests for point in stores[0].trend(0, 4e9)) == 4000
    with databases[0].transaction() as connection:
        texts = connection.exec_driver_sql("SELECT text FROM labels").scalars().all()
    assert sorted(texts) == sorted(set(texts))
    for database in databases:
        database.close()


def test_many_clients_do_not_fill_the_memory(
    store: TraceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollama_herd.store.labels.CACHED_LABELS", 10)
    for round_number in range(3):
        for n in range(30):
            store.put(samples.trace(client=f"10.0.0.{n}", started_s=round_number * 100.0 + n))
        done = (round_number + 1) * 30
        wait_until(lambda done=done: store.health().written == done)
    assert {trace.client for trace in store.recent()} == {f"10.0.0.{n}" for n in range(30)}
