"""LiteLLM: its four ways to an Ollama."""

import litellm
from steps import TOOL, URL, main, refused, step

ASK = [{"role": "user", "content": "Say hello to Paris"}]
litellm.num_retries = 0


def ask(model, base=URL, **more):
    return litellm.completion(model=model, messages=ASK, api_base=base, api_key="x", **more)


@step
def each_way():
    ways = {"ollama": URL, "ollama_chat": URL, "openai": f"{URL}/v1", "anthropic": URL}
    answers = [ask(f"{way}/llama3.1", base, max_tokens=7) for way, base in ways.items()]
    return [[a.choices[0].message.content, a.usage.completion_tokens] for a in answers]


@step
def streams():
    streams = [
        ask("ollama_chat/llama3.1", stream=True),
        ask("openai/llama3.1", f"{URL}/v1", stream=True),
    ]
    return [[c.choices[0].delta.content for c in stream] for stream in streams]


@step
def tools():
    call = ask("openai/llama3.1", f"{URL}/v1", tools=[TOOL]).choices[0].message.tool_calls[0]
    return [call.function.name, call.function.arguments]


@step
def embeddings():
    answer = litellm.embedding(model="ollama/nomic-embed-text", input=["one"], api_base=URL)
    return answer.data[0]["embedding"][:3]


@step
def unknown_model():
    return refused(lambda: ask("ollama_chat/nope"), Exception, "status_code")


main()
