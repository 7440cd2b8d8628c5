"""Where a model goes that no node has yet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.node import Gpu, Node, NodeStatus, Platform, Vitals
from ollama_herd.core.placement import DISK_RESERVE_BYTES, expected_bytes, place

GB = 10**9


def node(name, memory_gb=16, vram_gb=0, disk_free_gb=500, *, apple=False, disk_total_gb=1000):
    gpus = ()
    if vram_gb:
        gpus = (Gpu(name="RTX 4090", vendor="nvidia", memory_total_bytes=vram_gb * GB),)
    if apple:
        gpus = (Gpu(name="Apple M2", vendor="apple", unified=True),)
    return Node(
        node_id=name,
        name=name,
        address="10.0.0.1",
        status=NodeStatus.ONLINE,
        boot=1,
        seq=1,
        first_seen_s=0.0,
        last_report_s=0.0,
        platform=Platform(system="darwin" if apple else "linux", machine="arm64"),
        vitals=Vitals(
            memory_total_bytes=memory_gb * GB,
            disk_total_bytes=disk_total_gb * GB,
            disk_free_bytes=disk_free_gb * GB,
            gpus=gpus,
        ),
    )


nodes = st.lists(
    st.builds(
        node,
        st.text("abcdefgh", min_size=1, max_size=4),
        st.integers(1, 512),
        st.sampled_from([0, 8, 24, 80]),
        st.integers(0, 900),
        apple=st.booleans(),
        disk_total_gb=st.sampled_from([0, 1000]),
    ),
    max_size=6,
    unique_by=lambda n: n.node_id,
)
sizes = st.integers(10**6, 600 * GB)


@given(nodes, sizes)
def test_a_node_is_chosen_exactly_when_one_has_room(fleet, size):
    placed = place(fleet, size)
    assert {r.node_id for r in placed.rooms} == {n.node_id for n in fleet}
    assert bool(placed.node_id) is any(r.has_disk for r in placed.rooms)
    if placed.node_id:
        vitals = next(n for n in fleet if n.node_id == placed.node_id).vitals
        is_told = vitals.disk_total_bytes > 0
        assert not is_told or vitals.disk_free_bytes >= size + DISK_RESERVE_BYTES


@given(nodes, sizes)
def test_the_order_of_nodes_does_not_matter(fleet, size):
    assert place(fleet, size) == place(list(reversed(fleet)), size)


@given(nodes, sizes)
def test_memory_that_it_fits_into_goes_first(fleet, size):
    placed = place(fleet, size)
    chosen = next((r for r in placed.rooms if r.node_id == placed.node_id), None)
    if chosen is None:
        return
    candidates = [r for r in placed.rooms if r.has_disk]
    assert chosen.fits_fast or not any(r.fits_fast for r in candidates)
    assert chosen.fits or not any(r.fits for r in candidates)


@given(nodes, sizes)
def test_a_node_without_room_changes_nothing(fleet, size):
    full = node("full", disk_free_gb=0)
    assert place([*fleet, full], size).node_id == place(fleet, size).node_id


def test_big_models_to_big_machines_and_small_ones_elsewhere():
    fleet = [node("laptop", 16, apple=True), node("studio", 192, apple=True), node("nas", 64)]
    assert place(fleet, 4 * GB).node_id == "laptop"
    assert place(fleet, 40 * GB).node_id == "studio"
    assert place(fleet, 400 * GB).node_id == "studio"


def test_a_full_disk_is_passed_by():
    fleet = [node("laptop", 16, apple=True, disk_free_gb=3), node("studio", 192, apple=True)]
    assert place(fleet, 4 * GB).node_id == "studio"


def test_nobody_has_room():
    placed = place([node("a", disk_free_gb=1), node("b", disk_free_gb=2)], 40 * GB)
    assert placed.node_id == ""
    assert [r.disk_free_bytes for r in placed.rooms] == [2 * GB, 1 * GB]


@pytest.mark.parametrize(
    ("name", "low_gb", "high_gb"),
    [
        ("llama3.1:70b", 38, 46),
        ("llama3.2:1b-instruct-fp16", 1.8, 2.4),
        ("qwen3:30b-a3b-q8_0", 28, 36),
        ("gemma3:270m", 0.1, 0.3),
        ("mixtral:8x7b", 24, 32),
        ("hf.co/someone/Model-3B-GGUF:Q4_K_M", 1.5, 2.2),
        ("nomic-embed-text", 3, 6),
    ],
)
def test_a_name_tells_the_size(name, low_gb, high_gb):
    assert low_gb * GB <= expected_bytes(name) <= high_gb * GB
