"""The `anthropic` package against an engine that speaks only OpenAI's dialect."""

import asyncio

import anthropic
from steps import URL, main, step

MODEL = "smollm2-135m"
ASK = [{"role": "user", "content": "Say hello"}]
TOOL = {"name": "now", "input_schema": {"type": "object", "properties": {}}}

client = anthropic.Anthropic(base_url=URL, api_key="ollama", max_retries=0)


def ask(**more):
    return client.messages.create(**{"model": MODEL, "max_tokens": 30, "messages": ASK, **more})


@step
def message():
    answer = ask(system=[{"type": "text", "text": "Be kind."}])
    return [
        answer.content[0].type == "text",
        bool(answer.content[0].text),
        answer.role == "assistant",
        answer.stop_reason == "max_tokens",
        answer.usage.input_tokens > 0,
        answer.usage.output_tokens > 0,
    ]


@step
def message_stream():
    whole = ask().content[0].text
    with client.messages.stream(model=MODEL, max_tokens=30, messages=ASK) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    return [
        final.content[0].text == whole,
        kinds[0] == "message_start",
        kinds[-1] == "message_stop",
        kinds.count("content_block_start") == kinds.count("content_block_stop") == 1,
        final.usage.output_tokens > 0,
        final.stop_reason == "max_tokens",
    ]


@step
def cut_short():
    with client.messages.stream(model=MODEL, max_tokens=3, messages=ASK) as stream:
        final = stream.get_final_message()
    return [final.stop_reason == "max_tokens", final.usage.output_tokens == 3]


@step
def a_turn_with_a_tool():
    call = {"type": "tool_use", "id": "t1", "name": "now", "input": {}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": "noon"}
    history = [
        *ASK,
        {"role": "assistant", "content": [call]},
        {"role": "user", "content": [result]},
    ]
    answer = ask(messages=history, tools=[TOOL], tool_choice={"type": "auto"})
    return [bool(answer.content[0].text)]


@step
def errors():
    source = {"type": "url", "url": "https://example.com/cat.png"}
    picture = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    found = []
    for kind, more in (
        (anthropic.NotFoundError, {"model": "nope"}),
        (anthropic.BadRequestError, {"messages": picture}),
        (anthropic.BadRequestError, {"messages": picture, "stream": True}),
        (anthropic.BadRequestError, {"tools": [{"type": "web_search_20250305", "name": "w"}]}),
    ):
        try:
            ask(**more)
        except kind as error:
            found.append(error.body["type"] == "error" and bool(error.body["error"]["message"]))
    return [len(found) == 4, *found]


@step
def count_tokens():
    return [client.messages.count_tokens(model=MODEL, messages=ASK).input_tokens > 0]


@step
async def asynchronous():
    async with anthropic.AsyncAnthropic(base_url=URL, api_key="ollama") as own:
        several = await asyncio.gather(
            *(own.messages.create(model=MODEL, max_tokens=9, messages=ASK) for _ in range(3))
        )
    return [len({answer.id for answer in several}) == 3]


main()
