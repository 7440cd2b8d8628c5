"""The door for browsers, the same on both planes: which origin may come in."""

from collections.abc import Callable, Sequence

from ollama_herd.api.origin import answer_headers, is_allowed
from ollama_herd.router.reply import Headers

Gate = Callable[[Headers], Headers | None]


def make_gate(extra_origins: Sequence[str] = ()) -> Gate:
    """A function from (lower-case) request headers to the headers to add, None to refuse."""
    extra = tuple(extra_origins)

    def gate(headers: Headers) -> Headers | None:
        origin = host = ""
        for name, value in headers:
            if name == b"origin":
                origin = value.decode("latin-1")
            elif name == b"host":
                host = value.decode("latin-1")
        if not origin:
            return ()
        return answer_headers(origin) if is_allowed(origin, host, extra) else None

    return gate
