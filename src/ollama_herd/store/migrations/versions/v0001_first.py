"""The first tables."""

from pathlib import Path

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ROW_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")
_VIEW = Path(__file__).with_name("v0001_requests.sql")


def upgrade() -> None:
    op.create_table(
        "labels",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("space", sa.SmallInteger, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.UniqueConstraint("space", "text", name="labels_text"),
    )
    _create_traces()
    _create_trends()
    op.create_table(
        "nodes",
        sa.Column("node_id", sa.Text, primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("saved_at", sa.Double, nullable=False),
    )
    op.create_table(
        "node_keys",
        sa.Column("node_id", sa.Text, primary_key=True),
        sa.Column("key_hash", sa.Text, nullable=False),
        sa.Column("bound_at", sa.Double, nullable=False),
    )
    op.create_table(
        "learned",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("saved_at", sa.Double, nullable=False),
    )
    op.execute(_VIEW.read_text(encoding="utf-8"))


def _create_traces() -> None:
    label_names = ("client", "key", "path", "model", "node")
    op.create_table(
        "traces",
        sa.Column("id", _ROW_ID, primary_key=True, autoincrement=True),
        sa.Column("request_id", sa.Text, nullable=False),
        sa.Column("started_at", sa.Double, nullable=False),
        *(sa.Column(f"{name}_label", sa.Integer, nullable=False) for name in label_names),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("error_label", sa.Integer, nullable=False),
        sa.Column("tags_label", sa.Integer, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        *(
            sa.Column(f"{name}_ms", sa.Double, nullable=False)
            for name in ("queue", "ttft", "total")
        ),
        *(
            sa.Column(f"{name}_ms", sa.Double)
            for name in ("prefill", "decode", "load", "predicted_ttft", "predicted_total")
        ),
        sa.Column("prompt_tokens", sa.BigInteger),
        sa.Column("output_tokens", sa.BigInteger),
        sa.Column("attempt_count", sa.Integer, nullable=False),
        sa.Column("record", sa.Text, nullable=False),
    )
    op.create_index("traces_request", "traces", ["request_id"])
    filtered = ("model", "node", "client", "key"), ("error", "tags")
    op.create_index(
        "traces_filter",
        "traces",
        [
            "started_at",
            "id",
            *(f"{name}_label" for name in filtered[0]),
            "status",
            *(f"{name}_label" for name in filtered[1]),
        ],
    )


def _create_trends() -> None:
    op.create_table(
        "trends",
        *_trend_key(),
        *(
            sa.Column(name, sa.BigInteger, nullable=False)
            for name in (
                "requests",
                "failed",
                "cancelled",
                "retried",
                "prompt_tokens",
                "output_tokens",
            )
        ),
        sa.Column("queue_ms", sa.Double, nullable=False),
        sa.Column("total_ms", sa.Double, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "trend_ttfts",
        *_trend_key(),
        sa.Column("slot", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )


def _trend_key() -> list[sa.Column[int]]:
    return [
        sa.Column("step_s", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("model_label", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("node_label", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("bucket_s", sa.BigInteger, primary_key=True, autoincrement=False),
    ]
