"""Simon Willison's `llm` with the plugin `llm-ollama`."""

import json
import os

from steps import URL, WEATHER, main, step

os.environ["OLLAMA_HOST"] = URL
os.environ["LLM_USER_PATH"] = os.getcwd()  # noqa: PTH109 (llm reads text)

import llm  # it reads the environment when it is imported


@step
def models():
    return sorted({model.model_id for model in llm.get_models() if "llama3.1" in model.model_id})


@step
def prompt():
    return llm.get_model("llama3.1:latest").prompt("Say hello to Paris", stream=False).text()


@step
def stream():
    return list(llm.get_model("llama3.1:latest").prompt("Say hello to Paris"))


@step
def schema():
    answer = llm.get_model("llama3.1:latest").prompt("Paris for 4 days", schema=WEATHER)
    return json.loads(answer.text())


@step
def embed():
    return llm.get_embedding_model("nomic-embed-text:latest").embed("one")[:3]


main()
