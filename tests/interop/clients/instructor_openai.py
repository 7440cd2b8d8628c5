"""Instructor: a typed answer by tool call and by JSON schema."""

import instructor
import openai
from pydantic import BaseModel
from steps import URL, main, step

ASK = [{"role": "user", "content": "Paris for 4 days"}]


class Weather(BaseModel):
    city: str
    days: int


def typed(mode):
    client = instructor.from_openai(openai.OpenAI(base_url=f"{URL}/v1", api_key="x"), mode=mode)
    answer = client.chat.completions.create(
        model="llama3.1", messages=ASK, response_model=Weather, max_retries=0
    )
    return answer.model_dump()


@step
def tools():
    return typed(instructor.Mode.TOOLS)


@step
def json_schema():
    return typed(instructor.Mode.JSON_SCHEMA)


main()
