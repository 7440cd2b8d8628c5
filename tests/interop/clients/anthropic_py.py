"""The `anthropic` package against `/v1/messages`."""

import anthropic
from steps import PIXEL, URL, WEATHER, main, refused, step

client = anthropic.Anthropic(base_url=URL, api_key="ollama", max_retries=0)
ASK = [{"role": "user", "content": "Say hello to Paris"}]
TOOL = {"name": "weather", "description": "Weather of a city", "input_schema": WEATHER}


def ask(**more):
    return client.messages.create(
        **{"model": "llama3.1", "max_tokens": 100, "messages": ASK, **more}
    )


@step
def message():
    answer = ask(system="Be kind.", max_tokens=7)
    return [answer.content[0].text, answer.stop_reason, answer.usage.output_tokens]


@step
def message_stream():
    with client.messages.stream(model="llama3.1", max_tokens=7, messages=ASK) as stream:
        return [list(stream.text_stream), stream.get_final_message().stop_reason]


@step
def events():
    return [event.type for event in ask(stream=True, max_tokens=4)]


@step
def tools():
    first = ask(tools=[TOOL])
    call = next(block for block in first.content if block.type == "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "21 degrees"}
    history = [
        *ASK,
        {"role": "assistant", "content": first.content},
        {"role": "user", "content": [result]},
    ]
    second = ask(messages=history, tools=[TOOL])
    return [call.name, call.input, first.stop_reason, second.content[0].text]


@step
def tools_stream():
    with client.messages.stream(
        model="llama3.1", max_tokens=100, messages=ASK, tools=[TOOL]
    ) as stream:
        final = stream.get_final_message()
    return [[block.type for block in final.content], final.content[-1].input, final.stop_reason]


@step
def thinking():
    how = {"type": "enabled", "budget_tokens": 1024}
    answer = ask(model="gpt-oss:20b", thinking=how, max_tokens=2000)
    with client.messages.stream(
        model="gpt-oss:20b", max_tokens=2000, messages=ASK, thinking=how
    ) as stream:
        streamed = stream.get_final_message()
    kinds = [[block.type for block in one.content] for one in (answer, streamed)]
    return [kinds, answer.content[0].thinking, streamed.content[-1].text]


@step
def pictures():
    source = {"type": "base64", "media_type": "image/png", "data": PIXEL}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "What is this?"}]
    return ask(messages=[{"role": "user", "content": content}]).content[0].text


@step
def models():
    return sorted(m.id for m in client.models.list())


@step
def errors():
    calls = (
        lambda: ask(model="nope"),
        lambda: ask(model="nope", stream=True),
        lambda: ask(max_tokens=0),
        lambda: ask(model="nomic-embed-text"),
    )
    return [refused(call, anthropic.APIStatusError, "status_code", "body") for call in calls]


@step
def count_tokens():
    return client.messages.count_tokens(model="llama3.1", messages=ASK).input_tokens > 0


@step
def cancelled():
    stream = ask(stream=True, max_tokens=100_000)
    kinds = [next(iter(stream)).type for _ in range(4)]
    stream.close()
    return kinds


@step
async def asynchronous():
    async with anthropic.AsyncAnthropic(base_url=URL, api_key="ollama") as own:
        answer = await own.messages.create(model="llama3.1", max_tokens=5, messages=ASK)
    return answer.content[0].text


main()
