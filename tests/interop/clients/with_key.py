"""The vendors' packages at a herd that asks for a key: each sends it in its own way."""

import sys

import anthropic
import ollama
import openai
from steps import URL, main, refused, step

KEY = sys.argv[2]
ASK = [{"role": "user", "content": "Say hello to Paris"}]


def ollama_with(key):
    client = ollama.Client(host=URL, headers={"Authorization": f"Bearer {key}"})
    return client.chat("llama3.1", ASK).message.content


def openai_with(key):
    client = openai.OpenAI(base_url=f"{URL}/v1", api_key=key, max_retries=0)
    answer = client.chat.completions.create(model="llama3.1", messages=ASK)
    return answer.choices[0].message.content


def anthropic_with(key):
    client = anthropic.Anthropic(base_url=URL, api_key=key, max_retries=0)
    answer = client.messages.create(model="llama3.1", max_tokens=20, messages=ASK)
    return answer.content[0].text


@step
def answers():
    return [with_key(KEY) for with_key in (ollama_with, openai_with, anthropic_with)]


@step
def refusals():
    return [
        refused(lambda: ollama_with("x"), ollama.ResponseError, "status_code"),
        refused(lambda: openai_with("x"), openai.AuthenticationError, "status_code"),
        refused(lambda: anthropic_with("x"), anthropic.AuthenticationError, "status_code"),
    ]


main()
