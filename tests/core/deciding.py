"""Fleets and requests to decide on."""

from hypothesis import strategies as st

from ollama_herd.core.load import Load
from ollama_herd.core.node import Gpu, Platform, Vitals
from ollama_herd.core.predict import Predictor
from ollama_herd.core.routing import decide
from ollama_herd.core.scheduler import QueueSettings, Scheduler
from tests.core.fleets import GB, engine, fleet_of, model, report, request

NAME = "m:7b"
CARD = Platform(system="linux", machine="x86_64")


def card(free_gb=24.0):
    return Vitals(
        memory_total_bytes=64 * GB,
        memory_available_bytes=48 * GB,
        gpus=(Gpu("NVIDIA GeForce RTX 4090", "nvidia", 24 * GB, int(free_gb * GB)),),
    )


def deciding(fleet, asked=None, now_s=0.0, excluded=frozenset()):
    predictor = Predictor()
    return decide(asked or request(NAME), fleet, Load(predictor), predictor, now_s, excluded)


def nodes_of(decision):
    return [c.replica.node_id for c in decision.candidates]


def reason_of(decision, node_id):
    return next(r.reason for r in decision.eliminated if r.node_id == node_id)


node_reports = st.builds(
    lambda i, size, loaded, slots, free, chip, other: report(
        f"n{i}",
        [
            engine(
                [model(NAME, size), model("other:1b", 30.0)],
                ([NAME] if loaded else []) + (["other:1b"] if other else []),
                slots=slots,
            )
        ],
        free_gb=free,
        platform=chip,
    ),
    st.integers(0, 30),
    st.sampled_from([2.0, 20.0]),
    st.booleans(),
    st.sampled_from([None, 1, 2, 4]),
    st.sampled_from([5.0, 64.0]),
    st.sampled_from(
        [
            Platform(system="linux", machine="x86_64"),
            Platform(system="darwin", machine="arm64", chip="Apple M1"),
            Platform(system="darwin", machine="arm64", chip="Apple M3 Ultra"),
        ]
    ),
    st.booleans(),
)
fleets = st.lists(node_reports, min_size=1, max_size=6, unique_by=lambda r: r.node_id)
requests = st.builds(
    lambda prompt, limit, context, stream: request(
        NAME,
        prompt_tokens=prompt,
        max_tokens=limit,
        stream=stream,
        load_options=(("num_ctx", context),) if context else (),
    ),
    st.sampled_from([1, 200, 8000]),
    st.sampled_from([None, 1, 500]),
    st.sampled_from([None, 4096, 8192]),
    st.booleans(),
)


def under_load(reports, arrivals):
    """A scheduler that has granted what it could of `arrivals`."""
    fleet = fleet_of(reports)
    scheduler = Scheduler(QueueSettings(), Predictor())
    for number, asked in enumerate(arrivals):
        scheduler.on_request(asked, fleet, 0.1 * number)
    return scheduler, fleet
