"""Opening: who may read the file, what is migrated, and what is left as it is."""

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine

from ollama_herd.store import migrate
from ollama_herd.store.database import FILE_NAME, Database, open_database
from ollama_herd.store.errors import StoreError, StoreErrorKind
from ollama_herd.store.schema import metadata

SCRIPTS = Path(migrate.__file__).parent / "migrations"


def revisions() -> list[str]:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.set_main_option("path_separator", "os")
    walked = ScriptDirectory.from_config(config).walk_revisions()
    return [script.revision for script in walked]


def test_migrations_are_one_numbered_line() -> None:
    newest_first = revisions()
    assert newest_first[0] == migrate.HEAD
    assert newest_first == [f"{n:04}" for n in range(len(newest_first), 0, -1)]


def test_migrated_from_empty_is_the_schema(address: str) -> None:
    database = open_database(address)
    with database.transaction() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": migrate.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, metadata) == []
    database.close()


def test_opening_twice_migrates_once(address: str) -> None:
    for _ in range(2):
        database = open_database(address)
        with database.transaction() as connection:
            versions = connection.exec_driver_sql("SELECT version_num FROM herd_schema")
            assert versions.scalars().all() == [migrate.HEAD]
        database.close()


def test_two_processes_may_open_an_empty_database_at_once(address: str) -> None:
    script = (
        "import sys; from ollama_herd.store.database import open_database;"
        "open_database(sys.argv[1]).close()"
    )
    both = [subprocess.Popen([sys.executable, "-c", script, address]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permission bits")
def test_files_are_for_the_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        database = open_database(tmp_path / "home")
        with database.transaction() as connection:
            connection.exec_driver_sql("DELETE FROM traces")
        modes = {
            file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "home").iterdir()
        }
        database.close()
    finally:
        os.umask(before)
    assert modes[FILE_NAME] == 0o600
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700


def test_readers_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    with database.transaction() as writing:
        writing.exec_driver_sql("INSERT INTO labels (space, text) VALUES (0, 'a')")
        with database.transaction() as reading:
            assert reading.exec_driver_sql("SELECT count(*) FROM labels").scalar() == 0
    database.close()


def with_next_migration(folder: Path, *steps: str) -> Path:
    """A copy of the migrations with one more."""
    scripts = folder / "scripts"
    (scripts / "versions").mkdir(parents=True)
    for script in (SCRIPTS / "env.py", *(SCRIPTS / "versions").glob("v*")):
        copy = scripts / script.relative_to(SCRIPTS)
        copy.write_text(script.read_text())
    head = ["from alembic import op", f"revision, down_revision = '9999', '{migrate.HEAD}'"]
    body = ["def upgrade():", *(f"    {step}" for step in steps)]
    (scripts / "versions" / "v9999_next.py").write_text("\n".join([*head, *body]))
    return scripts


def test_a_migration_of_an_existing_database_keeps_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    database = open_database(home)
    with database.transaction() as connection:
        connection.exec_driver_sql("INSERT INTO labels (space, text) VALUES (0, 'kept')")

    scripts = with_next_migration(tmp_path, "op.execute('CREATE TABLE novelty (id INTEGER)')")
    old = migrate.HEAD
    monkeypatch.setattr(migrate, "HEAD", "9999")
    monkeypatch.setattr(migrate, "_SCRIPTS", scripts)
    capsys.readouterr()
    migrated = open_database(home)  # while the old version still has it open
    with migrated.transaction() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM novelty").scalar() == 0
        assert connection.exec_driver_sql("SELECT text FROM labels").scalar() == "kept"
    migrated.close()
    database.close()

    copies = list(home.glob("*.backup"))
    assert len(copies) == 1
    assert copies[0].name in capsys.readouterr().out
    with closing(sqlite3.connect(copies[0])) as copy:
        assert copy.execute("SELECT text FROM labels").fetchall() == [("kept",)]
        assert copy.execute("SELECT * FROM herd_schema").fetchall() == [(old,)]
    if sys.platform != "win32":
        assert stat.S_IMODE(copies[0].stat().st_mode) == 0o600


def test_a_failed_migration_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    open_database(home).close()
    scripts = with_next_migration(
        tmp_path,
        "op.execute('CREATE TABLE novelty (id INTEGER)')",
        "op.execute('DROP TABLE traces')",
        "op.execute('SELECT * FROM no_such_table')",
    )
    with monkeypatch.context() as newer:
        newer.setattr(migrate, "HEAD", "9999")
        newer.setattr(migrate, "_SCRIPTS", scripts)
        with pytest.raises(StoreError, match="no_such_table"):
            open_database(home)
    database = open_database(home)  # as it was
    with database.transaction() as connection:
        tables = connection.exec_driver_sql("SELECT name FROM sqlite_master").scalars().all()
        assert "traces" in tables
        assert "novelty" not in tables
    database.close()


def test_a_database_of_a_newer_version_is_refused(address: str) -> None:
    database = open_database(address)
    with database.transaction() as connection:
        connection.exec_driver_sql("UPDATE herd_schema SET version_num = '9998'")
    database.close()
    with pytest.raises(StoreError, match=r"newer Ollama Herd.*9998.*Upgrade") as refused:
        open_database(address)
    assert refused.value.kind is StoreErrorKind.NEWER


def test_a_file_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / FILE_NAME
    with closing(sqlite3.connect(file)) as other:
        other.execute("CREATE TABLE bookmarks (url TEXT)")
        other.commit()
    before = file.read_bytes()
    with pytest.raises(StoreError, match="another program") as refused:
        open_database(tmp_path)
    assert refused.value.kind is StoreErrorKind.FOREIGN
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [FILE_NAME]


@pytest.mark.parametrize(
    "content", [b"not a database " * 500, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_damaged_file_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / FILE_NAME
    file.write_bytes(content)
    with pytest.raises(StoreError, match=r"damaged.*left as it is.*move it away") as refused:
        open_database(tmp_path)
    assert refused.value.kind is StoreErrorKind.DAMAGED
    assert file.read_bytes() == content


def write_something(home: Path) -> None:
    database = open_database(home)
    try:
        with database.transaction() as connection:
            connection.exec_driver_sql("DELETE FROM traces")
    finally:
        database.close()


@contextmanager
def not_as_root() -> Iterator[None]:
    """Root may write anywhere."""
    if sys.platform == "win32" or os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no permission bits")
@pytest.mark.parametrize("is_there", [True, False])
def test_a_file_that_may_not_be_written(
    tmp_path_factory: pytest.TempPathFactory, *, is_there: bool
) -> None:
    home = tmp_path_factory.mktemp("home")
    if is_there:
        open_database(home).close()
        (home / FILE_NAME).chmod(0o444)
    home.chmod(0o555)
    for folder in list(home.parents)[:2]:  # made by pytest for its user only
        folder.chmod(0o755)
    with not_as_root(), pytest.raises(StoreError) as refused:
        write_something(home)
    home.chmod(0o755)
    assert refused.value.kind in {StoreErrorKind.READ_ONLY, StoreErrorKind.UNREACHABLE}
    assert "permission" in str(refused.value) or "may be used" in str(refused.value)
    assert str(home) in str(refused.value)


def test_a_locked_database_says_so(tmp_path: Path) -> None:
    open_database(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        database = Database(tmp_path, busy_timeout_s=0.05)
        with pytest.raises(StoreError, match="locked") as refused, database.transaction() as mine:
            mine.exec_driver_sql("DELETE FROM traces")
        assert refused.value.kind is StoreErrorKind.LOCKED
        database.close()


@pytest.mark.parametrize(
    "url",
    ["mysql://host/db", "postgresql://host:port/db", "://", "http://example.org"],
)
def test_an_unusable_url_says_what_to_write(url: str) -> None:
    with pytest.raises(StoreError, match="postgresql://user") as refused:
        open_database(url)
    assert refused.value.kind is StoreErrorKind.BAD_URL


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="the extra postgres is not installed")
    database = Database(f"postgresql://herd:secret@/herd?host={tmp_path}")
    with pytest.raises(StoreError) as refused:
        database.engine()
    assert refused.value.kind is StoreErrorKind.UNREACHABLE
    assert "secret" not in str(refused.value)
    assert "secret" not in database.name


def test_a_missing_driver_says_what_to_install() -> None:
    script = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from ollama_herd.store.database import open_database\n"
        "from ollama_herd.store.errors import StoreError\n"
        "try: open_database('postgresql://localhost/herd')\n"
        "except StoreError as error: print(error.kind.value, error)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    assert said.startswith("driver_missing")
    assert "pip install '.[postgres]'" in said


def test_sqlite_by_url(tmp_path: Path) -> None:
    database = open_database(f"sqlite:///{tmp_path / 'other.db'}")
    assert database.path == tmp_path / "other.db"
    assert database.size_bytes() > 0
    database.close()


def test_a_failure_does_not_last(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database " * 500)
    database = Database(tmp_path)
    with pytest.raises(StoreError):
        database.engine()
    (tmp_path / FILE_NAME).rename(tmp_path / "moved-away")
    database.engine()
    database.close()


def test_plain_sqlite_tools_can_read_it(tmp_path: Path) -> None:
    open_database(tmp_path).close()
    engine = create_engine(f"sqlite:///{tmp_path / FILE_NAME}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert connection.exec_driver_sql("SELECT count(*) FROM requests").scalar() == 0
    engine.dispose()
