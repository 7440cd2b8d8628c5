"""Uploads: all files of one client go to one node, where the create that follows finds them."""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Sequence

from aiohttp import web

from ollama_herd.api.errors import ApiError
from ollama_herd.clock import monotonic_s
from ollama_herd.router.asking import ask
from ollama_herd.router.models.answers import (
    CallRefused,
    ModelParts,
    passed_on,
    refusal,
    wanted_node,
)
from ollama_herd.router.models.targets import Target, all_targets, named_targets, roomiest
from ollama_herd.router.models.upload import Body, upload
from ollama_herd.router.slow import request_head
from ollama_herd.router.upstream import UpstreamFailed

KEPT_S = 3600.0
"""Ollama removes files no model uses at its next start, so nothing is remembered for ever."""

KEPT_PLACES = 4096
HEAD_TIMEOUT_S = 5.0
TYPICAL_BYTES = 5 * 10**9
"""Room looked for when a client only asks whether a file is there."""

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")

Place = tuple[str, str]
"""Node and engine."""


class Places:
    """Where something was last put, for a while; the oldest are forgotten first."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[Place, float]] = OrderedDict()

    def get(self, key: str) -> Place | None:
        found = self._kept.get(key)
        if found is None or monotonic_s() - found[1] > KEPT_S:
            self._kept.pop(key, None)
            return None
        return found[0]

    def put(self, key: str, place: Place) -> None:
        self._kept[key] = (place, monotonic_s())
        self._kept.move_to_end(key)
        if len(self._kept) > KEPT_PLACES:
            self._kept.popitem(last=False)


class Blobs:
    """The handlers, and what they remember: the node of each client and of each file."""

    def __init__(self, parts: ModelParts) -> None:
        self._parts = parts
        self._of_client = Places()
        self._of_digest = Places()

    async def head(self, request: web.Request) -> web.Response:
        """HEAD /api/blobs/{digest}: about the node that an upload now would go to."""
        digest = _digest(request)
        target = self._known_place(request, digest) or self._build_place(request, TYPICAL_BYTES)
        if await self._has(target, digest):
            self._remember(request, digest, target)
            return web.Response(status=200)
        message = f'blob "{digest}" not found'
        return refusal(ApiError(404, message, "unknown_blob"), request.path)

    async def post(self, request: web.Request) -> web.Response:
        """POST /api/blobs/{digest}."""
        digest = _digest(request)
        length = request.content_length
        target = self._build_place(request, length or TYPICAL_BYTES)
        head = request_head(request)
        body = Body(request.content, length, self._parts.limits.body_timeout_s)
        path = request.path.encode()
        try:
            answer = await upload(self._parts.upstream, target.address, path, head.headers, body)
        except UpstreamFailed as failure:
            message = (
                f"the upload to node {target.name} failed: {failure.detail}; send it again, "
                "or name another node with X-Herd-Node"
            )
            raise CallRefused(ApiError(502, message, "upload_failed")) from None
        if answer.status in (200, 201):
            self._remember(request, digest, target)
        return passed_on(answer, [target.name])

    async def place_with(
        self, request: web.Request, digests: Sequence[str], preferred: Sequence[Target]
    ) -> Target:
        """The node that has all these files: of `preferred` if one has, else where this client
        puts them, else any; when none has them, the client's node will say what is missing.
        """
        fleet = self._parts.registry.fleet
        build = self._build_place(request, TYPICAL_BYTES)
        remembered = [self._of_digest.get(digest) for digest in digests]
        candidates = sorted(
            all_targets(fleet),
            key=lambda t: (
                t not in preferred,
                -remembered.count((t.node_id, t.engine_id)),
                t != build,
            ),
        )
        having = await asyncio.gather(*(self._has_all(target, digests) for target in candidates))
        return next((t for t, has in zip(candidates, having, strict=True) if has), build)

    async def _has_all(self, target: Target, digests: Sequence[str]) -> bool:
        for digest in digests:
            if not await self._has(target, digest):
                return False
        return True

    async def _has(self, target: Target, digest: str) -> bool:
        path = f"/api/blobs/{digest}".encode("ascii", "replace")
        if not _DIGEST.fullmatch(digest):
            return False
        try:
            answer = await ask(
                self._parts.upstream, target.address, b"HEAD", path, timeout_s=HEAD_TIMEOUT_S
            )
        except UpstreamFailed:
            return False
        return answer.status == 200

    def _build_place(self, request: web.Request, size_bytes: int) -> Target:
        """The node for this client's uploads. Raises CallRefused."""
        fleet = self._parts.registry.fleet
        wanted = wanted_node(request)
        client = request.remote or ""
        if wanted:
            target = named_targets(fleet, wanted)[0]
        else:
            target = self._target(self._of_client.get(client)) or roomiest(fleet, size_bytes)
        self._of_client.put(client, (target.node_id, target.engine_id))
        return target

    def _known_place(self, request: web.Request, digest: str) -> Target | None:
        """Where the file was put, unless the caller or its other files are elsewhere."""
        if wanted_node(request) or self._of_client.get(request.remote or ""):
            return None
        return self._target(self._of_digest.get(digest))

    def _target(self, place: Place | None) -> Target | None:
        targets = all_targets(self._parts.registry.fleet)
        return next((t for t in targets if (t.node_id, t.engine_id) == place), None)

    def _remember(self, request: web.Request, digest: str, target: Target) -> None:
        place = (target.node_id, target.engine_id)
        self._of_digest.put(digest, place)
        self._of_client.put(request.remote or "", place)


def _digest(request: web.Request) -> str:
    """The digest of the path. Raises CallRefused with Ollama's words for what is none."""
    digest = request.match_info["digest"]
    if not _DIGEST.fullmatch(digest):
        raise CallRefused(ApiError(400, "invalid digest format", "bad_digest"))
    return digest
