"""Stands in for mflux's and diffusionkit's commands: same flags, same progress bar, a real PNG.

What it does is in its environment: STAND_IN_STEP_S a step, STAND_IN_FAILS the words it fails with,
STAND_IN_LOG a file to which it adds its command line, STAND_IN_CHILD makes it start a child that
does the work, as some Python programs do.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.fakes.media import png


def parsed(command: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=command, allow_abbrev=False)
    whole, text = {"type": int}, {"type": str}
    if command.startswith("mflux-"):
        parser.add_argument("--prompt-file", required=True, type=Path)
        parser.add_argument("--negative-prompt", default="")
        parser.add_argument("--output", default="image.png")
        parser.add_argument("--model", **text)
        parser.add_argument("--quantize", choices=(3, 4, 5, 6, 8), **whole)
        parser.add_argument("--guidance", type=float)
        parser.add_argument("--seed", nargs="+", **whole)
    else:
        parser.add_argument("--prompt", required=True)
        parser.add_argument("--negative_prompt", default="")
        parser.add_argument("--output-path", dest="output", default="out.png")
        parser.add_argument("--model-version", dest="model", **text)
        parser.add_argument("--cfg", type=float)
        parser.add_argument("--seed", **whole)
    parser.add_argument("--width", default=64, **whole)
    parser.add_argument("--height", default=64, **whole)
    parser.add_argument("--steps", default=4, **whole)
    return parser.parse_args()


def main() -> int:
    command = Path(sys.argv[0]).name
    asked = parsed(command)
    environment = os.environ
    prompt = asked.prompt_file.read_text() if hasattr(asked, "prompt_file") else asked.prompt
    if "STAND_IN_LOG" in environment:
        offline = environment.get("HF_HUB_OFFLINE")
        line = {"command": command, "argv": sys.argv[1:], "prompt": prompt, "offline": offline}
        with Path(environment["STAND_IN_LOG"]).open("a") as log:
            log.write(json.dumps({**line, "pid": os.getpid()}) + "\n")
    if environment.get("STAND_IN_CHILD"):
        rest = {**environment, "STAND_IN_CHILD": ""}
        return subprocess.call([sys.executable, *sys.argv], env=rest)
    if environment.get("STAND_IN_FAILS"):
        sys.stderr.write(f"Traceback (most recent call last):\n{environment['STAND_IN_FAILS']}\n")
        return 1
    for step in range(1, asked.steps + 1):
        time.sleep(float(environment.get("STAND_IN_STEP_S", "0")))
        share = 100 * step // asked.steps
        sys.stderr.write(f"\r{share:3}%|####      | {step}/{asked.steps} [00:01<00:01,  1.00s/it]")
        sys.stderr.flush()
    seeds = asked.seed if isinstance(asked.seed, list) else [asked.seed]
    for seed in seeds:
        output = Path(asked.output)
        if len(seeds) > 1:
            output = output.with_stem(f"{output.stem}_seed_{seed}")
        output.write_bytes(png(asked.width, asked.height, ((seed or 0) % 256, 0, 0)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
