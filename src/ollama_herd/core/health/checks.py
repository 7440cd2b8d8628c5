"""All health checks, declared: a new one is an entry here, a function that looks, and two tests."""

from ollama_herd.core.health import machines, models, requests
from ollama_herd.core.health.values import Check

CHECKS: tuple[Check, ...] = (
    Check(
        "node-offline",
        "Node offline or degraded",
        "A machine has stopped reporting, or works below its speed.",
        "See whether the machine runs and is on the network, and whether herd-node runs on it. "
        "It comes back by itself; a machine that is gone for good can be forgotten.",
        machines.node_state,
    ),
    Check(
        "engine-unreachable",
        "Engine unreachable",
        "The agent of a machine reports, but its engine does not answer.",
        "Start the engine there (`ollama serve`) or look at its log.",
        machines.engine_unreachable,
        visible_s=5.0,
    ),
    Check(
        "stuck-runner",
        "Stuck runner",
        "An engine answers questions about itself, but a model on it produces nothing.",
        "Unload the model there (`ollama stop MODEL`), and restart that engine if that hangs too. "
        "Other nodes take its requests meanwhile.",
        models.stuck_runner,
    ),
    Check(
        "error-rate",
        "Error rate",
        "Requests end without an answer although all nodes were tried.",
        "Requests filtered by `failed` say why each of them did; the engine's log says more.",
        requests.errors,
    ),
    Check(
        "queue-saturation",
        "Queue saturation",
        "Requests wait longer than people do, or are turned away.",
        "Add a node that has the model, or raise the slots of those that have memory left; "
        "mark what may wait with X-Herd-Priority: batch.",
        requests.queue,
        visible_s=5.0,
    ),
    Check(
        "stream-reliability",
        "Stream reliability",
        "Answers break off after they have begun.",
        "Look at that node's engine log and its network. Plain text is continued elsewhere, other "
        "answers end with an error.",
        requests.streams,
    ),
    Check(
        "retry-rate",
        "Retry rate",
        "Requests are answered, but often only by the second node tried.",
        "Look at the node named; drain it while you do.",
        requests.retries,
    ),
    Check(
        "memory-pressure",
        "Memory pressure",
        "A machine is short of memory and about to swap, or its models with it.",
        "Unload a model there, close other programs, or shorten contexts.",
        machines.memory_pressure,
        visible_s=10.0,
    ),
    Check(
        "swap",
        "Swap in use",
        "Memory has been moved to disk on a machine with loaded models: everything there is slow.",
        "Unload a model there, or close what else needs memory.",
        machines.swap,
        visible_s=30.0,
    ),
    Check(
        "thrashing",
        "Model thrashing",
        "Models push each other out of a machine's memory and are loaded again and again.",
        "Give one of them another node, raise OLLAMA_MAX_LOADED_MODELS where memory allows, or let "
        "clients ask for one context length.",
        models.thrashing,
    ),
    Check(
        "loads",
        "Slow or failing loads",
        "Loading a model takes far longer than its size explains, or fails.",
        "Models on a network share or an old disk load slowly: move them to a local SSD "
        "(OLLAMA_MODELS).",
        models.loads,
    ),
    Check(
        "kv-cache",
        "KV-cache bloat",
        "The cache for contexts takes more memory than the model itself.",
        "Lower OLLAMA_CONTEXT_LENGTH or OLLAMA_NUM_PARALLEL there, or set "
        "OLLAMA_KV_CACHE_TYPE=q8_0 with flash attention.",
        models.kv_cache,
        visible_s=10.0,
    ),
    Check(
        "context",
        "Context waste or truncation",
        "Prompts or answers are cut by a short context, or a large one takes memory for nothing.",
        "Set the context to what is used.",
        models.context,
    ),
    Check(
        "unused-memory",
        "Under-used memory",
        "A machine has memory left while another one lacks it or requests wait.",
        "Pull what is asked for most on that machine too; the herd never downloads by itself.",
        machines.unused_memory,
        visible_s=30.0,
    ),
    Check(
        "disk",
        "Disk nearly full",
        "There is hardly room for another model.",
        "Delete models that nobody asks for, or move OLLAMA_MODELS to a larger disk.",
        machines.disk,
    ),
    Check(
        "digests",
        "One name, different models",
        "Nodes have different files under the same model name; only one of them is served.",
        "Pull the model again: that brings every node that has it to the same version.",
        models.digests,
        visible_s=60.0,
    ),
    Check(
        "duplicates",
        "Duplicate runners",
        "The same weights are in one machine's memory more than once.",
        "Stop one of the engines there, or ask all of them for one context length.",
        models.duplicates,
        visible_s=10.0,
    ),
    Check(
        "versions",
        "Version mismatch",
        "Nodes run different versions: the same request may be answered differently.",
        "Bring Ollama to one version on all nodes.",
        machines.versions,
    ),
    Check(
        "drift",
        "Prediction drift",
        "Times differ far from what was predicted, so choices are worse than they could be.",
        "Nothing at first: predictions follow within some requests. If it stays, see what else "
        "uses that machine.",
        requests.drift,
    ),
    Check(
        "services",
        "Image and speech services",
        "A service that makes images or understands speech does not answer.",
        "Start that service on its node, or look at its log.",
        machines.services,
        visible_s=5.0,
    ),
    Check(
        "clock-skew",
        "Clock skew",
        "Clocks of machines disagree, so times in their logs and here do.",
        "Switch on the time synchronisation of that machine (NTP).",
        machines.clock_skew,
        visible_s=10.0,
    ),
    Check(
        "store",
        "Trace store",
        "Traces of requests cannot be written. Requests themselves are not affected.",
        "The message says what is wrong with the database; its folder is the herd's home.",
        requests.store,
    ),
    Check(
        "exposure",
        "Open without keys",
        "Anybody who reaches these ports can use them.",
        "Fine on a network you trust; else close them.",
        machines.exposure,
    ),
)
"""The most urgent first: pages and commands keep this order among equals."""
