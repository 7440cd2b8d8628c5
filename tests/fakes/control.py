"""`/__fake__/…`: what the Python object offers, over HTTP, for a fake that runs as a process."""

import json
from typing import TYPE_CHECKING, Any

from tests.fakes.gojson import dumps
from tests.fakes.state import Fault, Scripted
from tests.fakes.wire import Reply, Request

if TYPE_CHECKING:
    from tests.fakes.ollama import FakeOllama


async def answer_control(fake: "FakeOllama", request: Request, reply: Reply) -> None:
    """GET counters; POST settings, fault, script, heal, reset. 400 names what it did not know."""
    asked: dict[str, Any] = json.loads(request.body) if request.body else {}
    match request.path.rpartition("/")[2]:
        case "counters":
            pass
        case "settings":
            unknown = [name for name in asked if not hasattr(fake.settings, name)]
            if unknown:
                await reply.send(400, dumps({"error": f"unknown settings {unknown}"}))
                return
            for name, value in asked.items():
                setattr(fake.settings, name, value)
        case "fault":
            fake.fail_next(
                Fault(asked["fault"]),
                asked.get("times", 1),
                after_tokens=asked.get("after_tokens", 3),
                path=asked.get("path", ""),
            )
        case "script":
            said = Scripted(
                tokens=tuple(asked.get("tokens", ())),
                thinking=tuple(asked.get("thinking", ())),
                tool_calls=tuple(asked.get("tool_calls", ())),
                done_reason=asked.get("done_reason", "stop"),
            )
            fake.script(said, asked.get("model", ""))
        case "heal":
            fake.heal()
        case "reset":
            fake.reset()
        case _:
            await reply.send(404, dumps({"error": "no such control"}))
            return
    await reply.send(200, dumps(fake.counters.as_json()))
