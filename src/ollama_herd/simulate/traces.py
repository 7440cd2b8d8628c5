"""Public request traces as workloads: times, lengths and anonymous prefix blocks, no text.

Formats by file name, each optionally gzipped: `*.csv` (`t_ms,input_tokens,output_tokens`, the
Azure LLM traces), `*.jsonl` of lists (`[t_ms, input, output, [[first_hash, count], ...]]`,
Mooncake) or of sessions (`{"id", "block", "req": [...]}`, coding agents), and `*.json`, clients as
rates and quantiles (ServeGen).
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import msgspec

from ollama_herd.core.prefix import BLOCK_TOKENS
from ollama_herd.simulate.workloads import (
    MAX_OUTPUT,
    MAX_PROMPT,
    Conversation,
    Source,
    Turn,
    repeated,
)

CLIENTS = 12
"""Traces without clients get so many."""


class TraceError(Exception):
    """The file is no trace of a known format; the text says what is wrong."""


def source(path: Path) -> Source:
    """The workload in a trace file; each seed starts at another point of it.

    Raises TraceError, OSError.
    """
    data = path.read_bytes()
    name = path.name
    if name.endswith(".gz"):
        name = name.removesuffix(".gz")
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise TraceError(f"{path} is not gzip: {error}") from None
    try:
        if name.endswith(".json"):
            return _generated(msgspec.json.decode(data))
        conversations = _rows(data) if name.endswith(".csv") else _lines(data)
    except (msgspec.MsgspecError, ValueError, TypeError, KeyError, IndexError) as error:
        raise TraceError(f"{path} is no trace of a known format: {error}") from None
    if not conversations:
        raise TraceError(f"{path} has no requests")
    return lambda rng: repeated(conversations, rng.randrange(len(conversations)))


def _rows(data: bytes) -> list[Conversation]:
    rng = Random(1)
    found = []
    for line in data.decode().splitlines()[1:]:
        at_ms, prompt, output = (float(text) for text in line.split(","))
        turn = Turn(0.0, _prompt(prompt), _output(output))
        found.append(Conversation(at_ms / 1e3, _client(rng), (turn,)))
    return found


def _lines(data: bytes) -> list[Conversation]:
    rows = [msgspec.json.decode(line) for line in data.splitlines() if line]
    if rows and isinstance(rows[0], dict):
        rng = Random(2)
        return [_session(row, 30.0 * i, _client(rng)) for i, row in enumerate(rows)]
    rng = Random(3)
    found = []
    for at_ms, prompt, output, runs in rows:
        ids = [first + i for first, count in runs for i in range(count)]
        chain = [part for block in ids for part in (2 * block + 1, 2 * block + 2)]
        turn = _turn(0.0, prompt, output, chain)
        found.append(Conversation(at_ms / 1e3, _client(rng), (turn,)))
    return found


def _session(row: dict[str, Any], at_s: float, client: str) -> Conversation:
    block = int(row["block"])
    per_block = max(1, BLOCK_TOKENS // block)
    salt = zlib.crc32(row["id"].encode()) << 32
    turns: list[Turn] = []
    for _, think_s, _, prompt, output, runs in row["req"]:
        if prompt > MAX_PROMPT and turns:
            break
        ids = [first + i for first, count in runs for i in range(count)]
        chain = [salt + ids[i] for i in range(per_block - 1, len(ids), per_block)]
        turns.append(_turn(think_s if turns else 0.0, prompt, output, chain))
    return Conversation(at_s, client, tuple(turns))


def _turn(pause_s: float, prompt: float, output: float, chain: Sequence[int]) -> Turn:
    tokens = _prompt(prompt)
    return Turn(float(pause_s), tokens, _output(output), tuple(chain[: tokens // BLOCK_TOKENS]))


def _prompt(tokens: float) -> int:
    return int(min(max(tokens, 1), MAX_PROMPT))


def _output(tokens: float) -> int:
    return int(min(max(tokens, 1), MAX_OUTPUT))


def _client(rng: Random) -> str:
    return f"client-{rng.randrange(CLIENTS):02}"


def _generated(clients: Sequence[dict[str, Any]]) -> Source:
    """Requests drawn from each client's rates, burstiness and length quantiles."""
    if not clients or not all(c["windows"] and c["in_q"] and c["out_q"] for c in clients):
        raise ValueError("no clients with windows and quantiles")

    def draw(rng: Random) -> Iterator[Conversation]:
        window = rng.randrange(100)
        while True:
            yield from _window(rng, clients, window)
            window += 1

    return draw


def _window(rng: Random, clients: Sequence[dict[str, Any]], number: int) -> Iterator[Conversation]:
    """One window's requests in order; rates thinned so that a window has about a thousand."""
    windows = [c["windows"][number % len(c["windows"])] for c in clients]
    total = sum(w[1] for w in windows) or 1.0
    found = []
    for client, (_, rate, variation) in zip(clients, windows, strict=True):
        mean_s = 600.0 / max(1e-9, 1000 * rate / total)
        shape = 1 / max(0.05, min(variation, 8.0)) ** 2
        at_s = rng.random() * mean_s
        while at_s < 600:
            prompt, output = rng.choice(client["in_q"]), rng.choice(client["out_q"])
            turn = Turn(0.0, _prompt(prompt), _output(output))
            name = f"client-{client['client']}"
            found.append(Conversation(600.0 * number + at_s, name, (turn,)))
            at_s += max(rng.gammavariate(shape, mean_s / shape), 1e-6)
    yield from sorted(found, key=lambda c: c.at_s)
