"""LlamaIndex: its Ollama chat model and embedder."""

from llama_index.core.llms import ChatMessage
from llama_index.embeddings.ollama import OllamaEmbedding
from llama_index.llms.ollama import Ollama
from pydantic import BaseModel
from steps import URL, main, step

model = Ollama(model="llama3.1", base_url=URL, request_timeout=30, context_window=4096)


class Weather(BaseModel):
    """Weather of a city."""

    city: str
    days: int


@step
def complete():
    return model.complete("Say hello to Paris").text


@step
def chat_stream():
    messages = [ChatMessage(role="user", content="Say hello to Paris")]
    return [chunk.delta for chunk in model.stream_chat(messages)]


@step
def structured():
    return model.as_structured_llm(Weather).complete("Paris for 4 days").raw.model_dump()


@step
def embeddings():
    embedder = OllamaEmbedding(model_name="nomic-embed-text", base_url=URL)
    return [vector[:3] for vector in embedder.get_text_embedding_batch(["one", "two"])]


main()
