"""Accounts and the cloud: they belong to single nodes, so the herd has none of its own."""

from aiohttp import web

from ollama_herd.api.errors import ApiError
from ollama_herd.router.asking import ask
from ollama_herd.router.models.answers import CallRefused, ModelParts, passed_on, wanted_node
from ollama_herd.router.models.targets import named_targets
from ollama_herd.router.slow import read_body, request_head
from ollama_herd.router.upstream import UpstreamFailed


class Accounts:
    """The handlers. A caller who names a node with `X-Herd-Node` gets that node's answer."""

    def __init__(self, parts: ModelParts) -> None:
        self._parts = parts

    async def me(self, request: web.Request) -> web.Response:
        """POST /api/me."""
        if wanted_node(request):
            return await self._ask_node(request)
        message = "unauthorized: each node signs in for itself; name one with X-Herd-Node"
        raise CallRefused(ApiError(401, message, "unauthorized"))

    async def sign_out(self, request: web.Request) -> web.Response:
        """POST /api/signout, DELETE /api/user/keys/{key}."""
        if wanted_node(request):
            return await self._ask_node(request)
        message = (
            "an account belongs to one node, not to the herd: sign out on the node itself, "
            "or name it with X-Herd-Node"
        )
        raise CallRefused(ApiError(403, message, "node_account"))

    async def web_search(self, _request: web.Request) -> web.Response:
        """POST /api/experimental/web_search."""
        raise CallRefused(_cloud_is_off("web search"))

    async def web_fetch(self, _request: web.Request) -> web.Response:
        """POST /api/experimental/web_fetch."""
        raise CallRefused(_cloud_is_off("web fetch"))

    async def _ask_node(self, request: web.Request) -> web.Response:
        limits = self._parts.limits
        body = await read_body(request, limits.max_body_bytes, limits.body_timeout_s)
        target = named_targets(self._parts.registry.fleet, wanted_node(request))[0]
        head = request_head(request)
        try:
            answer = await ask(
                self._parts.upstream,
                target.address,
                request.method.encode(),
                head.path,
                body,
                headers=head.headers,
            )
        except UpstreamFailed as failure:
            message = f"node {target.name} could not be asked: {failure.detail}"
            raise CallRefused(ApiError(502, message, "engines_failed")) from None
        return passed_on(answer, [target.name])


def _cloud_is_off(what: str) -> ApiError:
    return ApiError(403, f"ollama cloud is disabled: {what} is unavailable", "cloud_disabled")
