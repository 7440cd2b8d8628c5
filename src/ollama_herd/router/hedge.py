"""When an engine is silent for suspiciously long: a second try beside the first, the quicker wins.

Only entered once the silence was noticed, so an ordinary request pays nothing for it. The loser is
cancelled at once. At most two tries are under way at a time, and the scheduler bounds how many
requests of all may be.
"""

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass

from ollama_herd.clock import monotonic_s
from ollama_herd.core.node import Endpoint as EngineAddress
from ollama_herd.core.request import OutcomeKind
from ollama_herd.core.retry import failing_status, may_retry
from ollama_herd.core.routing import Candidate, RouteDecision
from ollama_herd.router.attempt import Call, prepare_call
from ollama_herd.router.connection import EngineConnection, UpstreamFailed
from ollama_herd.router.exchange import Exchange, Failed, held_answer
from ollama_herd.router.unload import make_room
from ollama_herd.tasks import spawn

LOOK_AGAIN_S = 1.0
"""A request that could not be tried elsewhere for want of a free slot looks again so often."""


Sent = EngineConnection | UpstreamFailed


@dataclass(slots=True, eq=False)
class Contender:
    """One of two tries. `lease` is its id with the dispatcher."""

    lease: str
    decision: RouteDecision
    candidate: Candidate
    call: Call
    started_ms: float
    connection: EngineConnection | None = None


async def race(exchange: Exchange, elder: Contender) -> Contender | Failed:
    """Wait on for a silent try, with another one beside it; the first to answer, or how all failed.

    The winner's connection is the caller's; all others are released. `exchange.lease` and the
    journal then go on with the winner, or with the last that failed.
    """
    running = _Race(exchange)
    try:
        return await running.run(elder)
    finally:
        running.clear()


class _Race:
    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._running: dict[asyncio.Task[Sent], Contender] = {}
        self._number = 1
        self._patient_until_s = 0.0
        self._failed: Failed = (OutcomeKind.SILENT, None)
        self._may_join = True

    async def run(self, elder: Contender) -> Contender | Failed:
        if elder.connection is None:
            raise AssertionError("the elder has sent its request")
        self._start(elder, _headed(elder.connection))
        while self._running:
            if len(self._running) == 1:
                self._join()
            elif monotonic_s() > self._patient_until_s:
                self._give_up_the_elder()
                continue
            done, _ = await asyncio.wait(
                self._running, timeout=LOOK_AGAIN_S, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                contender = self._running.pop(task)
                if await self._has_answered(task, contender):
                    self._win(contender)
                    return contender
        return self._failed

    def _start(self, contender: Contender, work: Awaitable[EngineConnection]) -> None:
        self._running[spawn(_outcome(work), name="try")] = contender

    def _join(self) -> None:
        """A second try, if there is a node for it."""
        exchange = self._exchange
        (elder,) = self._running.values()
        parts, journal = exchange.parts, exchange.journal
        tries = len(journal.attempts) + 1
        if not self._may_join or not may_retry(tries, parts.max_attempts):
            return
        lease = f"{exchange.request_id}/{self._number + 1}"
        decision = parts.dispatcher.hedge(elder.lease, lease)
        candidate = None if decision is None else decision.winner
        if decision is None or candidate is None or exchange.parsed is None:
            return
        self._number += 1
        call = prepare_call(exchange.endpoint, exchange.head, exchange.parsed, candidate)
        if not isinstance(call, Call):  # that kind of engine cannot serve it
            parts.dispatcher.lost(lease, OutcomeKind.CLIENT_ERROR, elder.lease)
            self._may_join = False
            return
        journal.begin_beside(decision)
        younger = Contender(lease, decision, candidate, call, journal.since_ms())
        self._patient_until_s = monotonic_s() + exchange.first_byte_patience_s(lease)
        address = candidate.replica.endpoint
        self._start(younger, self._sent(decision, call, address))

    async def _sent(
        self, decision: RouteDecision, call: Call, address: EngineAddress
    ) -> EngineConnection:
        upstream = self._exchange.parts.upstream
        if decision.evicts:
            await make_room(upstream, decision.evicts)
        return await call.send(upstream, address)

    async def _has_answered(self, task: asyncio.Task[Sent], contender: Contender) -> bool:
        """Whether this try won; one that failed is out of the race."""
        connection = task.result()
        if isinstance(connection, UpstreamFailed):
            self._lose(contender, connection.outcome, detail=connection.detail)
            return False
        contender.connection = connection
        status = connection.status
        outcome = failing_status(status)
        if outcome is None:
            return True
        try:
            held = await held_answer(connection, contender.call.failure)
        except asyncio.CancelledError:
            self._release(contender)
            self._abandon(contender)
            raise
        self._lose(contender, outcome, status=status)
        self._failed = (outcome, held)
        return False

    def _lose(
        self, contender: Contender, outcome: OutcomeKind, *, status: int = 0, detail: str = ""
    ) -> None:
        self._release(contender)
        self._failed = (outcome, None)
        exchange = self._exchange
        keeper = next(iter(self._running.values()), None)
        if keeper is None:
            self._go_on_with(contender)
            exchange.journal.end(outcome, status=status, detail=detail)
            return
        self._note(contender, outcome, keeper, status=status, detail=detail)
        self._go_on_with(keeper)

    def _win(self, winner: Contender) -> None:
        """The other one is cancelled: too late if it was the elder, only slower if not."""
        for task, loser in list(self._running.items()):
            is_elder = loser.started_ms < winner.started_ms
            outcome = OutcomeKind.SILENT if is_elder else OutcomeKind.CANCELLED
            self._drop(task, loser, outcome, winner)
        self._go_on_with(winner)

    def _give_up_the_elder(self) -> None:
        """Both are silent: the elder's slot is free for another one."""
        elder, younger = sorted(self._running.items(), key=lambda item: item[1].started_ms)
        self._drop(*elder, OutcomeKind.SILENT, younger[1])
        self._go_on_with(younger[1])

    def _drop(
        self,
        task: asyncio.Task[Sent],
        loser: Contender,
        outcome: OutcomeKind,
        keeper: Contender,
    ) -> None:
        del self._running[task]
        self._cancel(task, loser)
        detail = "another node was quicker" if outcome is OutcomeKind.CANCELLED else "no first byte"
        self._note(loser, outcome, keeper, detail=detail)

    def _note(
        self,
        loser: Contender,
        outcome: OutcomeKind,
        keeper: Contender,
        *,
        status: int = 0,
        detail: str = "",
    ) -> None:
        exchange = self._exchange
        exchange.journal.note(
            loser.candidate, outcome, loser.started_ms, status=status, detail=detail
        )
        exchange.parts.dispatcher.lost(loser.lease, outcome, keeper.lease)

    def _go_on_with(self, contender: Contender) -> None:
        exchange = self._exchange
        exchange.lease = contender.lease
        exchange.journal.go_on_with(contender.decision, contender.candidate, contender.started_ms)

    def _cancel(self, task: asyncio.Task[Sent], contender: Contender) -> None:
        """End a try, also one that has answered in this very moment."""
        task.cancel()
        sent = task.result() if task.done() and not task.cancelled() else None
        if isinstance(sent, EngineConnection):
            contender.connection = sent
        self._release(contender)

    def _release(self, contender: Contender) -> None:
        if contender.connection is not None:
            address = contender.candidate.replica.endpoint
            self._exchange.parts.upstream.release(address, contender.connection)

    def _abandon(self, contender: Contender) -> None:
        exchange = self._exchange
        if contender.lease != exchange.lease:
            exchange.journal.note(contender.candidate, OutcomeKind.CANCELLED, contender.started_ms)
            exchange.parts.dispatcher.cancelled(contender.lease)

    def clear(self) -> None:
        """The client has left: whatever is still under way ends now."""
        for task, contender in self._running.items():
            self._cancel(task, contender)
            self._abandon(contender)
        self._running.clear()


async def _headed(connection: EngineConnection) -> EngineConnection:
    await connection.head_came()
    return connection


async def _outcome(work: Awaitable[EngineConnection]) -> Sent:
    """A failed try is a result here, not the failure of a task."""
    try:
        return await work
    except UpstreamFailed as failure:
        return failure
