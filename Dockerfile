# The router and the agent in one image; `herd` unless another command is given:
#   docker build -t ollama-herd .
#   docker run -p 11435:11435 -v herd:/var/lib/herd ollama-herd
#   docker run … ollama-herd herd-node --router http://ROUTER:11435 --engine http://ENGINE:11434

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY src src
COPY web web
# For a compiled core: a quarter to a third less CPU per request. Any compiler of the image's own Debian will do.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
# Node for the dashboard's pages comes from PyPI, into the build only.
RUN COMPILE_CORE=1 pip wheel --no-cache-dir --wheel-dir /wheels '.[postgres,otel]'

FROM python:3.13-slim
# The version is the one that was just built.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels 'ollama-herd[postgres,otel]' \
    && useradd --system --uid 10001 --create-home --home-dir /var/lib/herd herd
USER 10001
ENV HERD_HOME=/var/lib/herd
VOLUME /var/lib/herd
EXPOSE 11435 11436
STOPSIGNAL SIGTERM
CMD ["herd"]
