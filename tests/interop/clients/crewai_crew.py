"""CrewAI: a crew of two, the first with a tool, the second with a form to fill in."""

from crewai import LLM, Agent, Crew, Process, Task
from crewai.tools import tool
from pydantic import BaseModel
from steps import URL, main, refused, step


class Report(BaseModel):
    city: str
    days: int


@tool("weather")
def weather(city: str, days: int) -> str:
    """Weather of a city."""
    return f"{days} days of sun for {len(city)} letters"


def llm(name="llama3.1", **more):
    return LLM(model=f"ollama/{name}", base_url=URL, max_retries=0, **more)


def agent(role, model, **more):
    told = {"role": role, "goal": "Tell of the weather", "backstory": "Ten years of weather."}
    return Agent(llm=model, allow_delegation=False, **told, **more)


@step
def crew():
    researcher = agent("researcher", llm(), tools=[weather])
    writer = agent("writer", llm())
    asked = Task(description="Weather in Paris", expected_output="a sentence", agent=researcher)
    told = Task(
        description="Report on Paris, 5 days",
        expected_output="a report",
        agent=writer,
        context=[asked],
        output_pydantic=Report,
    )
    done = Crew(
        agents=[researcher, writer], tasks=[asked, told], process=Process.sequential
    ).kickoff()
    texts = [one.raw for one in done.tasks_output]
    return [texts, done.pydantic.model_dump(), done.token_usage.model_dump()]


@step
def streams():
    return llm(stream=True).call("Say hello to Paris")


@step
def unknown_model():
    return refused(lambda: llm("nope").call("hi"), Exception)


main()
