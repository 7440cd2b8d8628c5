"""What clients get when one of two engines goes wrong: every fault at every endpoint of a router.

Each fault is met by a router that has not seen it before: started anew, or, where a start is
long, with a model of its own for each cell. Both engines answered all requests right until then;
the one that the router asked more often goes wrong, so that the fault is met.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.fault_matrix import FAULTS, REFUSE, Form
from tests.fakes.raw import Response, call
from tests.fakes.state import Fault

import wire
import wire_openai
from peers.fakes import Engine, pair
from peers.kinds import PATHS, Kind
from peers.reading import Read, read
from peers.servers import Server

REQUESTS = 12
HANGS = frozenset({Fault.SILENCE, Fault.STALL_MID_STREAM})
PATIENCE_S = 60.0
"""How long a client waits for anything. The herd's own patience, by default, is 10 s for a first
byte and 20 s within a stream; a router that needs longer than this has left its clients alone."""

_WARM_UP = 8
_AT_ONCE = 6
_KEY = {"Authorization": f"Bearer {wire_openai.KEY}"}


@dataclass
class Cell:
    """What the requests of one fault came to.

    `told` ended with an error, `silent` with a shorter or other text that nothing told from a
    whole one, `hung` with a client that gave up. `met` are requests that reached the bad engine
    after it went bad; None where that cannot be counted.
    """

    fault: str
    form: str
    requests: int = REQUESTS
    completed: int = 0
    told: int = 0
    silent: int = 0
    hung: int = 0
    met: int | None = None
    slowest_s: float = 0.0  # of those completed
    seen: list[str] = field(default_factory=list)


def cells(kind: Kind, *, quick: bool, only: Sequence[str] = ()) -> list[tuple[str, Form]]:
    """The faults, or `only` some of them, at the endpoints that the router has."""
    faults = [fault for fault in only or FAULTS if not (quick and fault in HANGS)]
    forms = [
        Form(PATHS[dialect], is_stream) for dialect in kind.dialects for is_stream in (True, False)
    ]
    return [(fault, form) for form in forms for fault in faults if _is_known(fault)]


def _is_known(fault: str) -> bool:
    return fault == REFUSE or fault in set(Fault)


def run(
    kind: Kind, home: Path, *, quick: bool, only: Sequence[str] = ()
) -> tuple[list[dict[str, Any]], str]:
    """The cells of one router, and why some are missing, "" for none."""
    wanted = cells(kind, quick=quick, only=only)
    if kind.has_model_states:
        return list(_one_start(kind, home, wanted)), ""
    done, missing = [], []
    for number, (fault, form) in enumerate(wanted):
        try:
            done.append(_twice(kind, home / str(number), fault, form))
        except (RuntimeError, OSError) as reason:
            missing.append(f"{form.name} {fault}: {reason}")
    return done, f"{len(missing)} cells: {missing[0]}" if missing else ""


def _twice(kind: Kind, home: Path, fault: str, form: Form) -> dict[str, Any]:
    """A machine that is busy with other work may keep a router from starting in time."""
    try:
        return _own_start(kind, home / "first", fault, form)
    except (RuntimeError, OSError):
        return _own_start(kind, home / "second", fault, form)


def _one_start(
    kind: Kind, home: Path, wanted: Sequence[tuple[str, Form]]
) -> Iterator[dict[str, Any]]:
    names = [wire.MODEL, *(f"cell-{number}:latest" for number in range(len(wanted)))]
    with pair(names) as engines, Server(kind, home, _ports(engines), models=names) as one:
        for (fault, form), name in zip(wanted, names[1:], strict=True):
            yield asdict(_cell(one.port, engines, fault, form, name))


def _own_start(kind: Kind, home: Path, fault: str, form: Form) -> dict[str, Any]:
    with pair() as engines, Server(kind, home, _ports(engines)) as one:
        return asdict(_cell(one.port, engines, fault, form, wire.MODEL))


def _ports(engines: tuple[Engine, Engine]) -> list[int]:
    return [engine.port for engine in engines]


def _cell(port: int, engines: tuple[Engine, Engine], fault: str, form: Form, name: str) -> Cell:
    cell = Cell(fault, form.name)
    bodies = [_body(form, name, number) for number in range(_WARM_UP + REQUESTS)]
    wanted = [read(form, call(engines[0].port, "POST", form.path, body)) for body in bodies]
    asked_before = [engine.inferences for engine in engines]
    for body in bodies[:_WARM_UP]:
        _ask(port, form, body)
    asked = [engine.inferences - then for engine, then in zip(engines, asked_before, strict=True)]
    bad = engines[asked.index(max(asked))]
    before = bad.inferences
    _break(bad, fault)
    at_once = REQUESTS if fault in HANGS else 1
    try:
        with ThreadPoolExecutor(at_once) as clients:
            answers = clients.map(lambda body: _ask(port, form, body), bodies[_WARM_UP:])
            for answer, whole in zip(answers, wanted[_WARM_UP:], strict=True):
                count(cell, form, answer, whole)
    finally:
        bad.heal()
        if fault == REFUSE:
            bad.listen()
    cell.met = None if fault == REFUSE else bad.inferences - before
    return cell


def _body(form: Form, name: str, number: int) -> dict[str, Any]:
    """Questions that begin differently: some routers send like prompts to the same engine."""
    content = f"{number} {number * 7919} Tell me"
    return {**form.body(name), "messages": [{"role": "user", "content": content}]}


def _ask(port: int, form: Form, body: dict[str, Any]) -> Response | None:
    """None when nothing came for too long; status 0 for what is no answer at all."""
    try:
        return call(port, "POST", form.path, body, _KEY, timeout_s=PATIENCE_S)
    except TimeoutError:
        return None
    except (OSError, ValueError) as broken:
        return Response(0, str(broken), [], "close")


def _break(bad: Engine, fault: str) -> None:
    if fault == REFUSE:
        bad.refuse()
    else:
        bad.fail_next(Fault(fault), times=-1, after_tokens=4)


def count(cell: Cell, form: Form, answer: Response | None, wanted: Read) -> None:
    """Put one answer where it belongs."""
    if answer is None:
        cell.hung += 1
        return
    got = read(form, answer)
    if got.is_whole and got.text == wanted.text:
        cell.completed += 1
        cell.slowest_s = max(cell.slowest_s, answer.arrivals[-1])
        return
    if got.error:
        cell.told += 1
    else:
        cell.silent += 1
    cell.seen.append((got.error or f"{len(got.text)} of {len(wanted.text)} characters")[:200])


def run_all(
    kinds: Sequence[Kind], home: Path, *, quick: bool, only: Sequence[str] = ()
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Some routers beside each other, because most of the time is spent waiting for hangs.

    Cells by router, and for those that failed the reason.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    failed: dict[str, str] = {}

    def work(kind: Kind) -> None:
        try:
            found[kind.name], missing = run(
                kind, home / f"faults-{kind.name}", quick=quick, only=only
            )
        except (RuntimeError, OSError) as reason:
            missing = str(reason)
        if missing:
            failed[kind.name] = missing

    with ThreadPoolExecutor(_AT_ONCE) as workers:
        list(workers.map(work, kinds))
    return found, failed
