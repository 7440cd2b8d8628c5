"""One's own fleet and one's own traffic as a simulation: what if a machine were added, or gone.

Machines are made of what nodes last reported, requests of traces: their times, lengths, models and
clients, no text. What traces do not keep is left out: which prompts went on from which.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ollama_herd.core import hardware as hw
from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import EngineKind, Model, Node
from ollama_herd.simulate.machines import GB, KINDS, Machine, ModelSpec
from ollama_herd.simulate.workloads import MAX_OUTPUT, MAX_PROMPT, Conversation, Turn

LONGEST_PAUSE_S = 600.0
"""Longer pauses between two requests are cut to this: every model is unloaded by then."""

USUAL_KV_MB = 0.15
"""Of a token's KV cache: between those of the built-in models of 3 to 14 billion parameters."""


class Sent(msgspec.Struct, frozen=True):
    """A request as a trace tells of it. `at_s` is seconds since 1970."""

    at_s: float
    client: str
    model: str
    prompt: int
    output: int


class ChangeRefused(ValueError):  # noqa: N818 - an answer to a user, not a defect
    """The text says which change of the fleet makes no sense."""


def specs_of(nodes: Iterable[Node]) -> dict[str, ModelSpec]:
    """All models of the nodes' Ollamas, by canonical name."""
    specs: dict[str, ModelSpec] = {}
    for _, model in _on_disk(nodes):
        name = canonical_name(model.name)
        specs[name] = ModelSpec(
            name=name,
            size_gb=max(model.size_bytes / GB, 0.01),
            parameters=model.details.parameter_size,
            kv_mb=USUAL_KV_MB,
            is_embedding=model.capabilities == ("embedding",),
        )
    return specs


def machines_of(nodes: Sequence[Node]) -> tuple[Machine, ...]:
    """The nodes with an Ollama, as the simulator wants machines; several of one name numbered."""
    found: list[Machine] = []
    for node in nodes:
        engines = [engine for engine in node.engines if engine.kind is EngineKind.OLLAMA]
        if not engines:
            continue
        hardware = hw.hardware_of(node.platform, node.vitals)
        is_discrete = hardware.compute is hw.Compute.DISCRETE
        taken = sum(machine.name.partition("#")[0] == node.name for machine in found)
        found.append(
            Machine(
                name=f"{node.name}#{taken + 1}" if taken else node.name,
                chip=node.platform.chip or node.platform.machine or "CPU",
                bandwidth_gb_s=max(1, round(hardware.bandwidth_gb_s)),
                memory_gb=max(1, round(node.vitals.memory_total_bytes / GB)),
                vram_gb=round(hardware.vram_bytes / GB) if is_discrete else 0,
                gpu=node.vitals.gpus[0].name if is_discrete and node.vitals.gpus else "",
                slots=max(engine.slots or 1 for engine in engines),
                models=tuple(sorted({canonical_name(m.name) for e in engines for m in e.models})),
            )
        )
    return tuple(found)


def changed(
    machines: tuple[Machine, ...],
    specs: Mapping[str, ModelSpec],
    *,
    without: Sequence[str] = (),
    added: Sequence[str] = (),
    put: Sequence[str] = (),
) -> tuple[Machine, ...]:
    """The fleet with machines taken out, machines of a kind (`machines.KINDS`) added with all
    models that fit them, and models put on machines (`MODEL=MACHINE`). Raises ChangeRefused.
    """
    by_name = {machine.name: machine for machine in machines}
    for name in without:
        if by_name.pop(name, None) is None:
            raise ChangeRefused(f"no machine is called '{name}'; there are: {', '.join(by_name)}")
    for number, kind in enumerate(added, 1):
        if kind not in KINDS:
            raise ChangeRefused(f"there is no kind '{kind}'; there are: {', '.join(KINDS)}")
        name = f"new {kind} {number}"
        by_name[name] = msgspec.structs.replace(KINDS[kind], name=name, models=tuple(specs))
    for text in put:
        model, _, name = text.partition("=")
        key = canonical_name(model) if model else ""
        if key not in specs or name not in by_name:
            raise ChangeRefused(f"'{text}' is no MODEL=MACHINE of this fleet")
        machine = by_name[name]
        models = tuple(sorted({*(machine.models or ()), key}))
        by_name[name] = msgspec.structs.replace(machine, models=models)
    if not by_name:
        raise ChangeRefused("no machine is left")
    return tuple(by_name.values())


def conversations_of(
    sent: Iterable[Sent], specs: Mapping[str, ModelSpec], times: float = 1.0
) -> tuple[Conversation, ...]:
    """The requests for known models, `times` as fast one after the other, long pauses cut."""
    found: list[Conversation] = []
    at_s = before_s = 0.0
    for one in sorted(sent, key=lambda one: one.at_s):
        model = canonical_name(one.model)
        if model not in specs:
            continue
        if found:
            at_s += min(one.at_s - before_s, LONGEST_PAUSE_S) / times
        before_s = one.at_s
        prompt = min(max(one.prompt, 1), MAX_PROMPT)
        output = min(max(one.output, 1), MAX_OUTPUT)
        found.append(Conversation(at_s, one.client, (Turn(0.0, prompt, output),), model))
    return tuple(found)


def _on_disk(nodes: Iterable[Node]) -> Iterable[tuple[Node, Model]]:
    for node in nodes:
        for engine in node.engines:
            if engine.kind is EngineKind.OLLAMA:
                for model in engine.models:
                    yield node, model
