"""What the router has read from an engine itself, against reports that are not there yet.

After a delete or a pull the router reads the engine's list of models, but the node's agent looks
less often: for a while its reports still tell the old list. Name by name, what a report says
counts only where it says something new.
"""

from collections.abc import Iterable

import msgspec

from ollama_herd.core.names import canonical_name
from ollama_herd.core.node import Model

HOLD_S = 20.0
"""How long a list read by the router outweighs reports: an agent reads its engine's list every
10 s and reports every 2 s or so; a few seconds more for a busy machine."""


class Relisting(msgspec.Struct, frozen=True):
    """`models` as the router has read them at `at_s`, `reported` as the agent told last.

    `gone` are names with digests that an earlier reading had and this one has not: an agent that
    saw them meanwhile may tell of them still, and that is no news.
    """

    models: tuple[Model, ...]
    reported: tuple[Model, ...]
    at_s: float
    gone: frozenset[tuple[str, str]] = frozenset()

    def is_over(self, now_s: float) -> bool:
        return now_s - self.at_s > HOLD_S


def relisted(
    known: tuple[Model, ...], read: Iterable[Model], earlier: Relisting | None, now_s: float
) -> Relisting:
    """The router has read `read`, where it believed `known`.

    A list of names does not tell the weights; models with the same digest have the same.
    """
    weights = {model.digest: model for model in known if model.digest and model.weights}
    models = tuple(_described(model, weights.get(model.digest)) for model in read)
    if earlier is None or earlier.is_over(now_s):
        return Relisting(models, known, now_s)
    gone = (earlier.gone | _names_of(earlier.models)) - _names_of(models)
    return Relisting(models, earlier.reported, now_s, gone)


def corrected(relisting: Relisting, report: tuple[Model, ...]) -> Relisting:
    """What to believe now that the agent has told `report`."""
    before = {canonical_name(model.name): model.digest for model in relisting.reported}
    ours = {canonical_name(model.name): model for model in relisting.models}
    believed = []
    for model in report:
        key = canonical_name(model.name)
        is_late = (key, model.digest) in relisting.gone
        if before.get(key) != model.digest and not is_late:
            believed.append(model)  # news since our reading, or what we have read as well
        elif key in ours:
            mine = ours[key]
            believed.append(model if mine.digest == model.digest else mine)
    told = {canonical_name(model.name) for model in report}
    believed += [model for key, model in ours.items() if key not in told and key not in before]
    return Relisting(tuple(believed), report, relisting.at_s, relisting.gone)


def agrees(relisting: Relisting) -> bool:
    """Nothing is to be held any more: the agent tells what we believe, late news cannot come."""
    return not relisting.gone and _names_of(relisting.models) == _names_of(relisting.reported)


def _names_of(models: Iterable[Model]) -> frozenset[tuple[str, str]]:
    """Names with digests."""
    return frozenset((canonical_name(model.name), model.digest) for model in models)


def _described(model: Model, same: Model | None) -> Model:
    if same is None or model.weights:
        return model
    capabilities = model.capabilities or same.capabilities
    return msgspec.structs.replace(
        model, weights=same.weights, capabilities=capabilities, num_ctx=same.num_ctx
    )
