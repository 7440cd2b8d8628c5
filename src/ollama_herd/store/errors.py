"""What can go wrong with the database, in words that say what to do about it."""

import enum
import sqlite3

from sqlalchemy.exc import DBAPIError, SQLAlchemyError


class StoreErrorKind(enum.StrEnum):
    """Why the store cannot be used; also a metric label."""

    DAMAGED = "damaged"
    FOREIGN = "foreign"  # a database of another program
    NEWER = "newer"  # written by a newer version
    LOCKED = "locked"
    FULL = "full"
    READ_ONLY = "read_only"
    UNREACHABLE = "unreachable"
    DRIVER_MISSING = "driver_missing"
    BAD_URL = "bad_url"
    OTHER = "other"


class StoreError(Exception):
    """The database cannot do what was asked; the message names it, the reason and a remedy."""

    def __init__(self, kind: StoreErrorKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


_ADVICE = {
    StoreErrorKind.DAMAGED: (
        "is damaged. It was left as it is; move it away (or put a backup in its place) "
        "and a new one is made"
    ),
    StoreErrorKind.LOCKED: (
        "is locked by another program. Close what holds it open; this is tried again"
    ),
    StoreErrorKind.FULL: "cannot grow: the disk (or a limit on file size) is full. Make room",
    StoreErrorKind.READ_ONLY: "cannot be written. Check the permissions of the file and its folder",
    StoreErrorKind.UNREACHABLE: "cannot be opened. Check that it exists and may be used",
    StoreErrorKind.OTHER: "failed",
}

# Names of SQLite's result codes without their extensions (https://www.sqlite.org/rescode.html).
_KIND_OF_SQLITE = {
    "SQLITE_CORRUPT": StoreErrorKind.DAMAGED,
    "SQLITE_NOTADB": StoreErrorKind.DAMAGED,
    "SQLITE_BUSY": StoreErrorKind.LOCKED,
    "SQLITE_LOCKED": StoreErrorKind.LOCKED,
    "SQLITE_FULL": StoreErrorKind.FULL,
    "SQLITE_IOERR": StoreErrorKind.FULL,
    "SQLITE_READONLY": StoreErrorKind.READ_ONLY,
    "SQLITE_PERM": StoreErrorKind.READ_ONLY,
    "SQLITE_AUTH": StoreErrorKind.READ_ONLY,
    "SQLITE_CANTOPEN": StoreErrorKind.UNREACHABLE,
}


# By class of SQLSTATE (PostgreSQL manual, appendix A).
_KIND_OF_SQLSTATE = {
    "08": StoreErrorKind.UNREACHABLE,
    "28": StoreErrorKind.UNREACHABLE,
    "3D": StoreErrorKind.UNREACHABLE,
    "57": StoreErrorKind.UNREACHABLE,
    "53": StoreErrorKind.FULL,
    "55": StoreErrorKind.LOCKED,
    "25": StoreErrorKind.READ_ONLY,
}


def explained(error: SQLAlchemyError | OSError, name: str) -> StoreError:
    """The StoreError for what the driver said about the database called `name`.

    Statements and their parameters are left out: they may hold keys.
    """
    kind = _kind_of(error)
    return StoreError(kind, f"The database {name} {_ADVICE[kind]} ({_said(error)}).")


def _kind_of(error: SQLAlchemyError | OSError) -> StoreErrorKind:
    if isinstance(error, PermissionError):
        return StoreErrorKind.READ_ONLY
    if isinstance(error, OSError):
        return StoreErrorKind.UNREACHABLE
    cause = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(cause, sqlite3.Error):
        code = getattr(cause, "sqlite_errorname", "")  # absent on errors of the Python layer
        if code == "SQLITE_IOERR_WRITE" or not code.startswith("SQLITE_IOERR"):
            return _KIND_OF_SQLITE.get("_".join(code.split("_")[:2]), StoreErrorKind.OTHER)
        return StoreErrorKind.OTHER
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return StoreErrorKind.UNREACHABLE
    return _kind_of_postgres(str(getattr(cause, "sqlstate", None) or ""), cause)


def _kind_of_postgres(sqlstate: str, cause: BaseException | None) -> StoreErrorKind:
    """A connection that could not be made has no SQLSTATE."""
    if cause is not None and not sqlstate and type(cause).__name__ == "OperationalError":
        return StoreErrorKind.UNREACHABLE
    if sqlstate == "42501":
        return StoreErrorKind.READ_ONLY
    return _KIND_OF_SQLSTATE.get(sqlstate[:2], StoreErrorKind.OTHER)


def _said(error: SQLAlchemyError | OSError) -> str:
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    cause = error.orig if isinstance(error, DBAPIError) else error
    first_line = str(cause).strip().partition("\n")[0]
    return first_line or type(cause).__name__
