"""The `ollama` package: every call an application makes of it."""

import asyncio

import ollama
from steps import PIXEL, TOOL, URL, WEATHER, main, refused, step

client = ollama.Client(host=URL)
ASK = [{"role": "user", "content": "Say hello to Paris"}]


@step
def chat():
    answer = client.chat("llama3.1", ASK)
    return [answer.message.content, answer.done_reason, answer.eval_count, answer.model]


@step
def chat_stream():
    chunks = list(client.chat("llama3.1", ASK, stream=True))
    return [[c.message.content for c in chunks], chunks[-1].done, chunks[-1].prompt_eval_count]


@step
def generate():
    answer = client.generate("llama3.1", "Say hello", options={"num_predict": 5, "seed": 7})
    return [answer.response, answer.done_reason, len(answer.context)]


@step
def generate_stream():
    return [c.response for c in client.generate("llama3.1", "Say hello", stream=True)]


@step
def tools():
    first = client.chat("llama3.1", ASK, tools=[TOOL])
    call = first.message.tool_calls[0].function
    result = {"role": "tool", "tool_name": call.name, "content": "21 degrees"}
    second = client.chat("llama3.1", [*ASK, first.message, result], tools=[TOOL])
    return [call.name, dict(call.arguments), second.message.content]


@step
def tools_stream():
    chunks = client.chat("llama3.1", ASK, tools=[TOOL], stream=True)
    return [dict(t.function.arguments) for c in chunks for t in c.message.tool_calls or ()]


@step
def thinking():
    answer = client.chat("gpt-oss:20b", ASK, think="low")
    off = client.chat("gpt-oss:20b", ASK, think=False)
    return [answer.message.thinking, answer.message.content, off.message.thinking]


@step
def structured():
    return client.chat("llama3.1", ASK, format=WEATHER).message.content


@step
def pictures():
    message = {"role": "user", "content": "What is this?", "images": [PIXEL, PIXEL]}
    return client.chat("llama3.1", [message]).message.content


@step
def embed():
    answer = client.embed("nomic-embed-text", ["one", "two"])
    old = client.embeddings("nomic-embed-text", "one")
    return [[e[:3] for e in answer.embeddings], answer.prompt_eval_count, len(old.embedding)]


@step
def unknown_model():
    error, fields = ollama.ResponseError, ("status_code", "error")
    calls = (
        lambda: client.chat("nope", ASK),
        lambda: list(client.chat("nope", ASK, stream=True)),
        lambda: client.generate("nope", "x"),
        lambda: client.embed("nope", "x"),
        lambda: client.show("nope"),
        lambda: client.delete("nope"),
        lambda: client.copy("nope", "x"),
        lambda: list(client.pull("nope", stream=True)),
    )
    return [refused(call, error, *fields) for call in calls]


@step
def bad_requests():
    error, fields = ollama.ResponseError, ("status_code", "error")
    calls = (
        lambda: client.chat("llama3.1", ASK, options={"num_ctx": "big"}),
        lambda: client.chat("nomic-embed-text", ASK),
        lambda: client.chat("llama3.1", ASK, think=True),
        lambda: client.chat("llama3.1", ASK, keep_alive="300"),
        lambda: client.embed("gpt-oss:20b", "x"),
    )
    return [refused(call, error, *fields) for call in calls]


@step
def listing():
    listed = sorted(client.list().models, key=lambda m: m.model)
    return [[m.model, m.size, m.digest, m.details.family, str(m.modified_at)] for m in listed]


@step
def show():
    shown = client.show("llama3.1")
    return [shown.capabilities, shown.details.family, sorted(shown.modelinfo), shown.template]


@step
def load_is_seen_and_unload_too():
    loaded = client.generate("llama3.1", "")
    seen = [m.context_length for m in client.ps().models if m.model == "llama3.1:latest"]
    gone = client.generate("llama3.1", "", keep_alive=0)
    left = [m.model for m in client.ps().models if m.model == "llama3.1:latest"]
    return [loaded.done_reason, seen, gone.done_reason, left]


@step
def pull_copy_create_delete():
    lines = [p.status for p in client.pull("fresh:1b", stream=True)]
    client.copy("fresh:1b", "mine")
    made = client.create("pirate", from_="fresh:1b", system="Talk like one.")
    here = sorted(m.model for m in client.list().models)
    for name in ("fresh:1b", "mine", "pirate"):
        client.delete(name)
    return [lines[0], lines[-1], made.status, here, sorted(m.model for m in client.list().models)]


@step
def blob():
    digest = client.create_blob(__file__)
    made = client.create("built", files={"model.gguf": digest})
    client.delete("built")
    return [digest[:7], made.status]


@step
def cancelled():
    stream = client.chat("llama3.1", ASK, stream=True, options={"num_predict": -1})
    words = [next(stream).message.content for _ in range(3)]
    stream.close()
    return words


@step
async def asynchronous():
    own = ollama.AsyncClient(host=URL)
    several = await asyncio.gather(*(own.chat("llama3.1", ASK) for _ in range(4)))
    words = [c.message.content async for c in await own.chat("llama3.1", ASK, stream=True)]
    return [[a.message.content for a in several], words]


main()
