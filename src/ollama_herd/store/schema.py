"""The tables, as the newest migration leaves them (a test compares the two).

Texts that repeat (model, node, client, path, ...) are kept once in `labels`; a trace refers to
them by number, 0 being "". This keeps rows and the filter index narrow: a filter that matches
nothing still reads a million entries in tens of milliseconds, and an insert touches two indexes
at their ends only.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

_RowId = BigInteger().with_variant(Integer, "sqlite")  # SQLite's rowid must be called INTEGER


def _label(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)


def _number(name: str, *, nullable: bool = False) -> Column[float]:
    return Column(name, Double, nullable=nullable)


labels = Table(
    "labels",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("space", SmallInteger, nullable=False),
    Column("text", Text, nullable=False),
    UniqueConstraint("space", "text", name="labels_text"),
)

traces = Table(
    "traces",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    Column("request_id", Text, nullable=False),
    _number("started_at"),
    _label("client_label"),
    _label("key_label"),
    _label("path_label"),
    _label("model_label"),
    _label("node_label"),
    Column("status", Integer, nullable=False),
    _label("error_label"),
    _label("tags_label"),
    Column("reason", Text, nullable=False),
    _number("queue_ms"),
    _number("ttft_ms"),
    _number("total_ms"),
    _number("prefill_ms", nullable=True),
    _number("decode_ms", nullable=True),
    _number("load_ms", nullable=True),
    _number("predicted_ttft_ms", nullable=True),
    _number("predicted_total_ms", nullable=True),
    Column("prompt_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("attempt_count", Integer, nullable=False),
    Column("record", Text, nullable=False),
    Index("traces_request", "request_id"),
    # Every filter is a scan of this index from its end; see the module's first lines.
    Index(
        "traces_filter",
        "started_at",
        "id",
        "model_label",
        "node_label",
        "client_label",
        "key_label",
        "status",
        "error_label",
        "tags_label",
    ),
)

trends = Table(
    "trends",
    metadata,
    Column("step_s", Integer, primary_key=True, autoincrement=False),
    Column("model_label", Integer, primary_key=True, autoincrement=False),
    Column("node_label", Integer, primary_key=True, autoincrement=False),
    Column("bucket_s", BigInteger, primary_key=True, autoincrement=False),
    Column("requests", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("cancelled", BigInteger, nullable=False),
    Column("retried", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    _number("queue_ms"),
    _number("total_ms"),
    sqlite_with_rowid=False,
)

trend_ttfts = Table(
    "trend_ttfts",
    metadata,
    Column("step_s", Integer, primary_key=True, autoincrement=False),
    Column("model_label", Integer, primary_key=True, autoincrement=False),
    Column("node_label", Integer, primary_key=True, autoincrement=False),
    Column("bucket_s", BigInteger, primary_key=True, autoincrement=False),
    Column("slot", Integer, primary_key=True, autoincrement=False),
    Column("requests", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

nodes = Table(
    "nodes",
    metadata,
    Column("node_id", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    _number("saved_at"),
)

node_keys = Table(
    "node_keys",
    metadata,
    Column("node_id", Text, primary_key=True),
    Column("key_hash", Text, nullable=False),
    _number("bound_at"),
)

learned = Table(
    "learned",
    metadata,
    Column("name", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    _number("saved_at"),
)

health_changes = Table(
    "health_changes",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    _number("changed_at"),
    Column("code", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("severity_before", Text, nullable=False),
    Column("severity_after", Text, nullable=False),
    Column("seen", Text, nullable=False),
    Index("health_changes_time", "changed_at"),
)

settings = Table(
    "settings",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
    _number("changed_at"),
)

setting_changes = Table(
    "setting_changes",
    metadata,
    Column("id", _RowId, primary_key=True, autoincrement=True),
    _number("changed_at"),
    Column("name", Text, nullable=False),
    Column("value_before", Text, nullable=False),
    Column("value_after", Text, nullable=False),
    Column("who", Text, nullable=False),
)

# Who may do what; bodies are JSON of `core.access`.
access = Table(
    "access",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    _number("changed_at"),
)
