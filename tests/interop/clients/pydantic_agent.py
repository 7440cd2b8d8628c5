"""Pydantic AI: an agent on its Ollama provider."""

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.ollama import OllamaProvider
from steps import URL, main, step

provider = OllamaProvider(base_url=f"{URL}/v1")
model = OpenAIChatModel("llama3.1", provider=provider)


class Weather(BaseModel):
    city: str
    days: int


@step
async def text():
    return (await Agent(model).run("Say hello to Paris")).output


@step
async def structured():
    answer = await Agent(model, output_type=Weather).run("Paris for 4 days")
    return answer.output.model_dump()


@step
async def tool():
    agent = Agent(model)

    @agent.tool_plain
    def weather(city: str) -> str:
        return f"21 degrees in {city}"

    return (await agent.run("Weather in Paris?")).output


@step
async def stream():
    async with Agent(model).run_stream("Say hello to Paris") as answer:
        return [piece async for piece in answer.stream_text(delta=True, debounce_by=None)]


main()
