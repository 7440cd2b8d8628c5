"""The three vendors' packages ask a real small model, each whole and streamed.

A step ends with `True` for what holds of any right answer, whatever its words are.
"""

import anthropic
import ollama
import openai
from steps import URL, main, step

MODEL = "smollm2"
ASK = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]
COLD = {"temperature": 0, "num_predict": 24}

plain = ollama.Client(host=URL, timeout=90)
gpt = openai.OpenAI(base_url=f"{URL}/v1", api_key="ollama", max_retries=0, timeout=90)
claude = anthropic.Anthropic(base_url=URL, api_key="ollama", max_retries=0, timeout=90)


@step
def ollama_chat():
    whole = plain.chat(MODEL, ASK, options=COLD)
    pieces = list(plain.chat(MODEL, ASK, options=COLD, stream=True))
    text = "".join(piece.message.content for piece in pieces)
    return [
        "Paris" in whole.message.content,
        text == whole.message.content,
        len(pieces) > 2,
        pieces[-1].done,
        whole.eval_count == pieces[-1].eval_count > 0,
        whole.total_duration > 0,
    ]


@step
def ollama_generate():
    whole = plain.generate(MODEL, ASK[0]["content"], options=COLD)
    pieces = list(plain.generate(MODEL, ASK[0]["content"], options=COLD, stream=True))
    text = "".join(piece.response for piece in pieces)
    return ["Paris" in whole.response, text == whole.response, pieces[-1].done]


@step
def ollama_schema():
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "green"]}},
        "required": ["colour"],
    }
    ask = [{"role": "user", "content": "What colour is grass? Answer in JSON."}]
    answer = plain.chat(MODEL, ask, format=schema, options=COLD)
    return [any(word in answer.message.content for word in ("red", "green"))]


@step
def ollama_embed():
    vectors = plain.embed(MODEL, ["one", "two"]).embeddings
    return [len(vectors) == 2, len(vectors[0]) == len(vectors[1]) > 10, vectors[0] != vectors[1]]


@step
def ollama_lists_and_shows():
    names = [m.model for m in plain.list().models]
    shown = plain.show(MODEL)
    running = [m.model for m in plain.ps().models]
    return [
        names == running == [f"{MODEL}:latest"],
        "completion" in shown.capabilities,
        bool(shown.modelinfo),
    ]


@step
def ollama_errors():
    found = []
    for call in (
        lambda: plain.chat("nope", ASK),
        lambda: plain.chat(MODEL, [{"role": "user", "content": "word " * 4000}]),
    ):
        try:
            call()
        except ollama.ResponseError as error:
            found.append(error.status_code)
    return [found == [404, 400]]


@step
def openai_chat():
    asked = {"model": MODEL, "messages": ASK, "temperature": 0, "max_tokens": 24}
    whole = gpt.chat.completions.create(**asked)
    options = {"include_usage": True}
    chunks = list(gpt.chat.completions.create(**asked, stream=True, stream_options=options))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    return [
        "Paris" in whole.choices[0].message.content,
        text == whole.choices[0].message.content,
        chunks[-1].usage.completion_tokens == whole.usage.completion_tokens > 0,
    ]


@step
def openai_completions_and_embeddings():
    asked = {"model": MODEL, "prompt": "The sky is", "temperature": 0, "max_tokens": 6}
    whole = gpt.completions.create(**asked).choices[0].text
    chunks = gpt.completions.create(**asked, stream=True)
    text = "".join(c.choices[0].text for c in chunks if c.choices)
    vectors = gpt.embeddings.create(model=MODEL, input=["one", "two"]).data
    return [bool(whole.strip()), text == whole, len(vectors) == 2, len(vectors[0].embedding) > 10]


@step
def openai_models():
    return [[m.id for m in gpt.models.list()] == [MODEL], gpt.models.retrieve(MODEL).id == MODEL]


@step
def anthropic_messages():
    asked = {"model": MODEL, "messages": ASK, "max_tokens": 24}
    asked["extra_body"] = {"temperature": 0}
    whole = claude.messages.create(**asked)
    with claude.messages.stream(**asked) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    return [
        "Paris" in whole.content[0].text,
        text == final.content[0].text == whole.content[0].text,
        final.stop_reason == whole.stop_reason,
        final.usage.output_tokens == whole.usage.output_tokens > 0,
    ]


@step
def anthropic_counts_and_errors():
    counted = claude.messages.count_tokens(model=MODEL, messages=ASK).input_tokens
    try:
        claude.messages.create(model="nope", max_tokens=5, messages=ASK)
    except anthropic.NotFoundError as error:
        unknown = error.body["error"]["type"] == "not_found_error"
    long = [{"role": "user", "content": "word " * 4000}]
    try:
        claude.messages.create(model=MODEL, max_tokens=5, messages=long)
    except anthropic.BadRequestError as error:
        return [counted > 0, unknown, "context size" in error.body["error"]["message"]]
    return [False]


main()
