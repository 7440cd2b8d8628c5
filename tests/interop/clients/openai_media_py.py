"""The `openai` package's pictures and transcriptions; argv[2] is a recording."""

import base64
import sys
import urllib.request
from functools import partial
from pathlib import Path

import openai
from steps import URL, main, refused, step

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="ollama", max_retries=0)
SOUND = Path(sys.argv[2])
EAR, BRUSH = "pocketsphinx", "z-image-turbo"
paint = partial(client.images.generate, model=BRUSH, prompt="a red barn", size="64x64")
hear = partial(client.audio.transcriptions.create, model=EAR)


def kind(data):
    return [data[1:4].decode(), len(data) > 50]


@step
def picture():
    answer = paint(response_format="b64_json", n=2, extra_body={"seed": 5, "steps": 2})
    return [kind(base64.b64decode(item.b64_json)) for item in answer.data]


@step
def picture_url():
    (item,) = paint(response_format="url").data
    with urllib.request.urlopen(item.url) as answer:  # noqa: S310 - the herd on loopback
        return [kind(answer.read()), answer.headers["Content-Type"]]


@step
def picture_progress():
    events = list(paint(stream=True, extra_body={"steps": 2}))
    last = events[-1]
    return [last.type, kind(base64.b64decode(last.b64_json)), events[0].type, events[0].steps]


@step
def picture_refused():
    return [
        refused(partial(paint, size="1x1"), openai.BadRequestError, "message"),
        refused(partial(paint, n=50), openai.BadRequestError, "message"),
        refused(partial(paint, model="nobody"), openai.NotFoundError, "message"),
        refused(partial(paint, model=EAR), openai.BadRequestError, "message"),
    ]


@step
def picture_given_up():
    more = {"extra_body": {"steps": 200}, "timeout": 2}
    return refused(partial(paint, **more), openai.APITimeoutError)


@step
def transcript():
    with SOUND.open("rb") as file:
        return hear(file=file).text


@step
def transcript_text():
    return hear(file=SOUND, response_format="text")


@step
def transcript_subtitles():
    srt, vtt = (hear(file=SOUND, response_format=kind) for kind in ("srt", "vtt"))
    return [srt.count("-->"), vtt.splitlines()[0]]


@step
def transcript_verbose():
    said = hear(file=SOUND, response_format="verbose_json", language="en", temperature=0)
    return [said.text, said.duration > 1, said.segments[0].text, said.segments[0].id]


@step
def transcript_refused():
    return [
        refused(partial(hear, file=("a.wav", b"no sound")), openai.BadRequestError, "status_code"),
        refused(partial(hear, file=("a.wav", b"")), openai.BadRequestError, "message"),
        refused(partial(hear, file=SOUND, model="x"), openai.NotFoundError, "message"),
        refused(partial(hear, file=SOUND, model=BRUSH), openai.BadRequestError, "message"),
    ]


@step
def kinds():
    return sorted([m.id, m.kind] for m in client.models.list() if m.id in (EAR, BRUSH))


main()
