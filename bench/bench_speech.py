"""How fast the recogniser of tests starts and listens. Run: `python bench/bench_speech.py`.

Needs `espeak-ng` and the package pocketsphinx. Measured is the agent's own worker process, from its
start and from one request to its answer; no network is between.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from ollama_herd.agent.services import recogniser
from ollama_herd.clock import monotonic_s

WORDS = "yes no yes"
LONG = ", ".join([WORDS] * 20)


def spoken(folder: Path, words: str) -> Path:
    """A recording of a synthetic voice."""
    espeak = shutil.which("espeak-ng")
    if espeak is None:
        sys.exit("espeak-ng is not installed: apt install espeak-ng, brew install espeak-ng")
    path = folder / f"{len(words)}.wav"
    subprocess.run([espeak, "-v", "en-us", "-s", "120", "-w", str(path), words], check=True)
    return path


class Worker:
    """The agent's process for a recogniser."""

    def __init__(self, python: str) -> None:
        program = str(Path(recogniser.__file__))
        self._process = subprocess.Popen(
            [python, program, "pocketsphinx", ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def ask(self, path: Path) -> float:
        """Seconds from a request to its answer."""
        sent, told = self._process.stdin, self._process.stdout
        if sent is None or told is None:
            raise AssertionError("both are pipes")
        began_s = monotonic_s()
        sent.write(json.dumps({"path": str(path)}) + "\n")
        sent.flush()
        line = told.readline()
        if not line or "error" in json.loads(line):
            sys.exit(f"nothing was heard: {line or 'is pocketsphinx installed for this Python?'}")
        return monotonic_s() - began_s

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--python", default=sys.executable, help="one that has pocketsphinx")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        short, long = spoken(Path(scratch), WORDS), spoken(Path(scratch), LONG)
        first, warm, rates = [], [], []
        length_s = recogniser.duration_s(str(long))
        for _ in range(given.runs):
            began_s = monotonic_s()
            worker = Worker(given.python)
            worker.ask(short)
            first.append(monotonic_s() - began_s)
            warm.append(worker.ask(short))
            rates.append(worker.ask(long) / length_s)
            worker.end()
        short_s = recogniser.duration_s(str(short))
    median = statistics.median
    print(f"first answer of a cold process, {short_s:.1f} s of speech: {median(first):.2f} s")
    print(f"the same of a warm process: {median(warm):.2f} s")
    print(f"real-time factor, {length_s:.0f} s of speech: {median(rates):.3f}")


if __name__ == "__main__":
    main()
