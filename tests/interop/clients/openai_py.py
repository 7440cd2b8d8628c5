"""The `openai` package against `/v1`."""

from functools import partial

import openai
from pydantic import BaseModel
from steps import PIXEL, TOOL, URL, main, refused, step

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="ollama", max_retries=0)
ASK = [{"role": "user", "content": "Say hello to Paris"}]


class Weather(BaseModel):
    city: str
    days: int


@step
def chat():
    answer = client.chat.completions.create(model="llama3.1", messages=ASK)
    return [answer.choices[0].message.content, answer.choices[0].finish_reason, answer.usage]


@step
def chat_stream():
    options = {"include_usage": True}
    stream = client.chat.completions.create(
        model="llama3.1", messages=ASK, stream=True, stream_options=options, max_tokens=6
    )
    chunks = list(stream)
    said = [c.choices[0].delta.content for c in chunks if c.choices]
    return [said, chunks[-1].usage.total_tokens, chunks[0].model]


@step
def tools():
    first = client.chat.completions.create(model="llama3.1", messages=ASK, tools=[TOOL])
    call = first.choices[0].message.tool_calls[0]
    result = {"role": "tool", "tool_call_id": call.id, "content": "21 degrees"}
    messages = [*ASK, first.choices[0].message, result]
    second = client.chat.completions.create(model="llama3.1", messages=messages, tools=[TOOL])
    reason = first.choices[0].finish_reason
    return [call.function.name, call.function.arguments, reason, second.choices[0].message.content]


@step
def tools_stream():
    with client.chat.completions.stream(model="llama3.1", messages=ASK, tools=[TOOL]) as stream:
        message = stream.get_final_completion().choices[0].message
    return [[c.function.name, c.function.arguments] for c in message.tool_calls]


@step
def thinking():
    answer = client.chat.completions.create(
        model="gpt-oss:20b", messages=ASK, reasoning_effort="low"
    )
    return [answer.choices[0].message.reasoning, answer.choices[0].message.content]


@step
def structured():
    answer = client.chat.completions.parse(model="llama3.1", messages=ASK, response_format=Weather)
    return answer.choices[0].message.parsed.model_dump()


@step
def json_object():
    form = {"type": "json_object"}
    answer = client.chat.completions.create(model="llama3.1", messages=ASK, response_format=form)
    return answer.choices[0].message.content


@step
def pictures():
    picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}}
    content = [{"type": "text", "text": "What is this?"}, picture]
    answer = client.chat.completions.create(
        model="llama3.1", messages=[{"role": "user", "content": content}]
    )
    return answer.choices[0].message.content


@step
def completions():
    answer = client.completions.create(model="llama3.1", prompt="Say hello", max_tokens=4)
    stream = client.completions.create(model="llama3.1", prompt="Say hello", stream=True)
    return [answer.choices[0].text, [c.choices[0].text for c in stream]]


@step
def responses():
    answer = client.responses.create(model="llama3.1", input="Say hello", max_output_tokens=5)
    stream = client.responses.create(model="llama3.1", input="Say hello", stream=True)
    return [answer.output_text, answer.status, [event.type for event in stream]]


@step
def embeddings():
    answer = client.embeddings.create(model="nomic-embed-text", input=["one", "two"])
    plain = client.embeddings.create(model="nomic-embed-text", input="one", encoding_format="float")
    return [[d.embedding[:3] for d in answer.data], plain.data[0].embedding[:3], answer.usage]


@step
def models():
    listed = sorted(m.id for m in client.models.list())
    return [listed, client.models.retrieve("llama3.1").model_dump()]


@step
def errors():
    def chat_with(**more):
        client.chat.completions.create(**{"model": "llama3.1", "messages": ASK, **more})

    calls = (
        lambda: chat_with(model="nope"),
        lambda: chat_with(model="nope", stream=True),
        lambda: chat_with(messages=[]),
        lambda: chat_with(model="nomic-embed-text"),
        lambda: client.embeddings.create(model="nope", input="x"),
        lambda: client.models.retrieve("nope"),
    )
    return [refused(call, openai.APIStatusError, "status_code", "body") for call in calls]


@step
def no_pictures():
    call = partial(client.images.generate, model="llama3.1", prompt="a cat")
    return refused(call, openai.APIStatusError, "status_code", "body")


@step
def cancelled():
    stream = client.chat.completions.create(
        model="llama3.1", messages=ASK, stream=True, max_tokens=100_000
    )
    words = [next(stream).choices[0].delta.content for _ in range(3)]
    stream.close()
    return words


@step
async def asynchronous():
    async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key="ollama") as own:
        stream = await own.chat.completions.create(model="llama3.1", messages=ASK, stream=True)
        return [c.choices[0].delta.content async for c in stream]


main()
