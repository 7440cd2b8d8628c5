"""Haystack: the Ollama generator and embedders of `ollama-haystack`."""

from haystack.dataclasses import ChatMessage, Document
from haystack_integrations.components.embedders.ollama import (
    OllamaDocumentEmbedder,
    OllamaTextEmbedder,
)
from haystack_integrations.components.generators.ollama import OllamaChatGenerator
from steps import URL, main, step

ASK = [ChatMessage.from_user("Say hello to Paris")]


@step
def chat():
    reply = OllamaChatGenerator(model="llama3.1", url=URL).run(ASK)["replies"][0]
    return [reply.text, reply.meta["model"]]


@step
def chat_stream():
    said = []
    generator = OllamaChatGenerator(
        model="llama3.1", url=URL, streaming_callback=lambda chunk: said.append(chunk.content)
    )
    return [generator.run(ASK)["replies"][0].text, said]


@step
def embeddings():
    one = OllamaTextEmbedder(model="nomic-embed-text", url=URL).run("one")["embedding"]
    documents = [Document(content="one"), Document(content="two")]
    several = OllamaDocumentEmbedder(model="nomic-embed-text", url=URL, progress_bar=False)
    return [one[:3], [d.embedding[:3] for d in several.run(documents)["documents"]]]


main()
