"""What streamed tokens and finished answers teach the reference policy's rates.

The time of a machine is cut into intervals at everything that is sent there, begins or ends, and
every five seconds. In a clean one a single model decodes and nobody evaluates a prompt; in a mixed
one prefill and decode move together, by what came against what was expected.
"""

from collections.abc import Iterable
from math import log

from ollama_herd.core.request import Usage
from ollama_herd.simulate.reference.beliefs import Flight, Host, Machine, Streamed
from ollama_herd.simulate.reference.cost import ATTENTION_TOKENS, CHUNK
from ollama_herd.simulate.reference.rates import LOAD_GAIN, LOAD_OVERHEAD_S, clip

LEAST_INTERVAL_S = 0.05
"""A shorter one holds too few tokens to be counted."""

MOST_CLEAN_TOKENS = 80
MOST_PROMPT_TOKENS = 400
LEAST_PROMPT_TOKENS = 64
JOINT_SHARE = 0.25
JOINT_LIMIT = 0.7
JOINT_TOKENS = 100
LEAST_LOAD_S = 1.5
LEAST_SPEED_TOKENS = 4
LEAST_STREAMED = 0.3
"""Tokens that stand for none, where a logarithm is taken."""


def watch(machine: Machine, streamed: Streamed, now_s: float) -> None:
    """The interval up to now is over: something changes on the machine, or five seconds are."""
    passed_s = now_s - machine.seen_s
    machine.seen_s = now_s
    hosts = list(machine.busy.values())
    flights = [flight for host in hosts for flight in host.flights.values()]
    for flight in flights:
        flight.streamed = streamed(flight.request.request_id)
    # While a model loads for a request nobody knows when its prompt begins to take time.
    is_loading = any(host.eta_s for host in hosts)
    if flights and not is_loading and passed_s >= LEAST_INTERVAL_S:
        decoding = [flight for flight in flights if flight.first_s >= 0]
        if len(hosts) == 1 and len(decoding) == len(flights):
            _clean(machine, hosts[0], decoding, passed_s)
        else:
            _mixed(hosts, passed_s)
    for flight in flights:
        flight.counted = flight.streamed


def judge_speed(machine: Machine, now_s: float) -> None:
    """Every five seconds: how fast the machine is now."""
    if machine.clean_expected >= LEAST_SPEED_TOKENS and machine.clean_tokens > 0:
        machine.pace.saw_speed(log(machine.clean_tokens / machine.clean_expected), now_s)
    machine.clean_tokens = machine.clean_expected = 0.0
    machine.pace.refresh(now_s)


def _came(flights: Iterable[Flight]) -> float:
    return float(sum(flight.streamed - flight.counted for flight in flights))


def _clean(machine: Machine, host: Host, flights: list[Flight], passed_s: float) -> None:
    steps = _came(flights) / len(flights)
    if steps <= 0:
        return
    kv_s = sum(flight.kv_s for flight in flights)
    batched = 1 + machine.pace.alpha * (len(flights) - 1)
    alone_s = (passed_s - kv_s * steps * machine.pace.slow_decode) / batched
    if alone_s <= 0:
        return
    rate = host.rates.decode
    rate.learn(alone_s / steps * machine.pace.speed, min(1.0, steps / MOST_CLEAN_TOKENS))
    machine.clean_tokens += steps
    machine.clean_expected += alone_s / rate.value


def _mixed(hosts: list[Host], passed_s: float) -> None:
    for host in hosts:
        decoding = [flight for flight in host.flights.values() if flight.first_s >= 0]
        predicted = _predicted(host, decoding, passed_s / len(hosts))
        if predicted < 1:
            continue
        error = log(max(_came(decoding), LEAST_STREAMED) / predicted)
        weight = min(1.0, predicted / JOINT_TOKENS)
        step = JOINT_SHARE * clip(error, -JOINT_LIMIT, JOINT_LIMIT) * weight
        host.rates.prefill.shift(step)
        host.rates.decode.shift(-step)


def _predicted(host: Host, decoding: list[Flight], share_s: float) -> float:
    """Tokens its requests should stream in so much of the machine's time."""
    if not decoding:
        return 0.0
    turn_s = host.step_s(len(decoding)) + sum(flight.kv_s for flight in decoding)
    prompts = [flight for flight in host.flights.values() if flight.first_s < 0]
    if prompts:
        new = prompts[0].prompt - prompts[0].cached
        chunk = min(CHUNK, new) * (1 + (prompts[0].cached + new / 2) / ATTENTION_TOKENS)
        turn_s += chunk / host.rates.prefill.value
    return len(decoding) * share_s * host.machine.pace.speed / turn_s


def learn_load(host: Host, usage: Usage) -> None:
    """Of a request that loaded the model."""
    seconds = (usage.load_ms or 0.0) / 1e3
    if seconds > LEAST_LOAD_S:
        rate = host.rates.size_gb / (seconds - LOAD_OVERHEAD_S)
        host.machine.pace.load_rate.learn(rate, gain=LOAD_GAIN)


def learn_answer(flight: Flight, usage: Usage) -> None:
    """A whole answer: prompt evaluation, and the bias of both predictions."""
    pace = flight.host.machine.pace
    prefill_s = (usage.prefill_ms or 0.0) / 1e3
    prompt = float(usage.prompt_tokens or flight.prompt)
    new = prompt - min(flight.cached, prompt - 1)
    if flight.is_clean and new >= LEAST_PROMPT_TOKENS:
        work_s = prefill_s * flight.speed
        stall_s = new / CHUNK * flight.stall_s
        if stall_s < work_s / 2:
            tokens = new * (1 + (prompt - new / 2) / ATTENTION_TOKENS)
            rate = tokens / (work_s - stall_s)
            flight.host.rates.prefill.learn(rate, min(1.0, new / MOST_PROMPT_TOKENS))
    pace.saw_prefill(prefill_s, flight.prefill_s)
    if usage.decode_ms and usage.output_tokens:
        pace.saw_decode(usage.decode_ms / 1e3, flight.step_s * usage.output_tokens)
