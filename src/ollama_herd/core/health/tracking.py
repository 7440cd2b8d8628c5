"""From what checks see to what people are told: since when, what changed, in what order.

Something is shown once it has been seen for its check's `visible_s`, and over once it has not been
seen for CLEAR_S, so that what flickers is not news each time.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

import msgspec

from ollama_herd.core.health.checks import CHECKS
from ollama_herd.core.health.values import (
    RANK,
    Check,
    CheckState,
    Finding,
    Health,
    Seen,
    Severity,
    Snapshot,
    Transition,
)

CLEAR_S = 10.0
"""How long something must be gone to be over."""

MAX_FINDINGS = 100
"""Findings of a check that are kept: on the worst day of a large fleet the rest say the same."""

Subject = tuple[str, str]
"""Code of the check, subject."""


class Held(msgspec.Struct, frozen=True):
    """A subject that was seen lately. Times are router monotonic seconds; `shown` is the severity
    people know of.
    """

    seen: Seen
    first_s: float
    last_s: float
    shown: Severity = Severity.OK


class Tracked(msgspec.Struct, frozen=True):
    """All that is held, from look to look."""

    held: Mapping[Subject, Held] = MappingProxyType({})


def look(snapshot: Snapshot, checks: Iterable[Check] = CHECKS) -> dict[Subject, Seen]:
    """What every check sees now."""
    found: dict[Subject, Seen] = {}
    for check in checks:
        for number, seen in enumerate(check.look(snapshot)):
            if number >= MAX_FINDINGS:
                break
            found.setdefault((check.code, seen.subject), seen)
    return found


def track(
    before: Tracked,
    found: Mapping[Subject, Seen],
    now_s: float,
    wall_offset_s: float = 0.0,
    checks: Iterable[Check] = CHECKS,
) -> tuple[Tracked, tuple[Transition, ...]]:
    """The next state, and what people should be told.

    `wall_offset_s` is seconds since 1970 less router seconds.
    """
    visible = {check.code: check.visible_s for check in checks}
    held: dict[Subject, Held] = {}
    changes: list[Transition] = []
    wall_s = now_s + wall_offset_s
    for subject, seen in found.items():
        known = before.held.get(subject)
        first_s = known.first_s if known is not None else now_s
        shown = known.shown if known is not None else Severity.OK
        if shown is not Severity.OK or now_s - first_s >= visible[subject[0]]:
            if shown is not seen.severity:
                changes.append(_change(subject, shown, seen.severity, seen, wall_s))
            shown = seen.severity
        held[subject] = Held(seen, first_s, now_s, shown)
    for subject, known in before.held.items():
        if subject in held:
            continue
        if now_s - known.last_s < CLEAR_S and known.shown is not Severity.OK:
            held[subject] = known
        elif known.shown is not Severity.OK:
            changes.append(_change(subject, known.shown, Severity.OK, known.seen, wall_s))
    return Tracked(held), tuple(changes)


def health(
    tracked: Tracked, now_s: float, wall_offset_s: float = 0.0, checks: Iterable[Check] = CHECKS
) -> Health:
    """The state as people see it."""
    states = [_state(check, tracked, wall_offset_s) for check in checks]
    states.sort(key=lambda state: -RANK[state.severity])
    counts = dict.fromkeys(Severity, 0)
    for state in states:
        counts[state.severity] += 1
    overall = states[0].severity if states else Severity.OK
    return Health(overall, round(now_s + wall_offset_s, 1), counts, tuple(states))


def _state(check: Check, tracked: Tracked, wall_offset_s: float) -> CheckState:
    findings = [
        Finding(
            severity=held.shown,
            subject=held.seen.subject,
            name=held.seen.name,
            seen=held.seen.text,
            advice=held.seen.advice or check.advice,
            since_s=round(held.first_s + wall_offset_s, 1),
            node_id=held.seen.node_id,
            model=held.seen.model,
        )
        for (code, _), held in tracked.held.items()
        if code == check.code and held.shown is not Severity.OK
    ]
    findings.sort(key=lambda finding: (-RANK[finding.severity], finding.since_s, finding.name))
    return CheckState(
        code=check.code,
        title=check.title,
        severity=findings[0].severity if findings else Severity.OK,
        seen=_summary(findings),
        since_s=min((finding.since_s for finding in findings), default=0.0),
        meaning=check.meaning,
        advice=check.advice,
        findings=tuple(findings),
    )


def _summary(findings: list[Finding]) -> str:
    if not findings:
        return ""
    first = f"{findings[0].name}: {findings[0].seen}"
    return first if len(findings) == 1 else f"{first} (and {len(findings) - 1} more)"


def _change(
    subject: Subject, before: Severity, after: Severity, seen: Seen, wall_s: float
) -> Transition:
    code, name = subject
    return Transition(round(wall_s, 1), code, name, seen.name, before, after, seen.text)
