"""What the router remembers over a restart, when the database holds what cannot be read."""

from pathlib import Path

import pytest
from sqlalchemy import insert

from ollama_herd.config import RouterSettings
from ollama_herd.core.learned import PredictorState
from ollama_herd.core.pins import Pin
from ollama_herd.router.memory import Memory
from ollama_herd.store.database import Database
from ollama_herd.store.fleet import FleetStore
from ollama_herd.store.schema import nodes

NO_TEXT = b'{"node_id":"\xff"}'
"""JSON but for its encoding."""

UNREADABLE = [b'{"models":5,"nodes":5}', b"[", NO_TEXT, b'"\xff"']


@pytest.mark.parametrize("body", UNREADABLE)
def test_pins_outlive_what_was_learned(tmp_path: Path, body: bytes) -> None:
    settings = RouterSettings(home=tmp_path, traces=False)
    database = Database(tmp_path)
    store = FleetStore(database)
    store.save_learned("predictor", body)
    store.save_learned("pins", b'[{"model_key":"llama3.2:latest","node_id":"a"}]')
    with database.transaction() as connection:
        connection.execute(insert(nodes), {"node_id": "x", "body": body, "saved_at": 0.0})
    database.close()

    memory = Memory(settings)
    memory.load()
    assert memory.learned == PredictorState()
    assert memory.pins == (Pin("llama3.2:latest", "a"),)
    assert list(memory.nodes) == []
