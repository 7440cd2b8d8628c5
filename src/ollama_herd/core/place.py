"""A place that could take a request, and what sending it there would cost."""

from ollama_herd.core.inflight import Options, ReplicaLoad
from ollama_herd.core.node import Replica


class Place:
    """Where a request may go: a replica with its own and its node's load, and the load-time options
    that its name brings along.
    """

    __slots__ = ("load", "node", "options", "replica")

    def __init__(self, replica: Replica, load: ReplicaLoad) -> None:
        self.replica = replica
        self.load = load
        self.node = load.node
        own = replica.model.num_ctx
        self.options: Options = (("num_ctx", own),) if own else ()


class Priced:
    """One place's terms in seconds. `prefill` and `decode` are as expected now."""

    __slots__ = (
        "affinity",
        "cached",
        "context",
        "decode",
        "evict",
        "history",
        "is_blocked",
        "load",
        "num_ctx",
        "place",
        "prefill",
        "prefix",
        "starts_now",
        "total",
        "trend",
        "wait",
    )

    def __init__(  # noqa: PLR0917 - by position: by name they would take twice as long
        self,
        place: Place,
        history: float = 0.0,
        trend: float = 0.0,
        prefill: float = 0.0,
        decode: float = 0.0,
        wait: float = 0.0,
    ) -> None:
        self.place = place
        self.total = 0.0
        self.starts_now = True
        self.history = history
        self.trend = trend
        self.affinity = 0.0
        self.prefill = prefill
        self.decode = decode
        self.wait = wait
        self.load = 0.0
        self.evict = 0.0
        self.context = 0.0
        self.prefix = 0.0
        self.cached = 0.0
        self.is_blocked = False  # only busy models could make room
        self.num_ctx = 0  # to be asked for, so as to use the window that is loaded
