"""Numbers and names as findings write them."""

from ollama_herd.core.fleet import Fleet

NAME_CHARS = 80
"""As much of a name as a line of text has room for."""


def plain(name: str) -> str:
    """A name somebody else chose, on one line and not too long."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in name[: NAME_CHARS + 1])
    return text if len(text) <= NAME_CHARS else f"{text[: NAME_CHARS - 1]}…"


def node_name(fleet: Fleet, node_id: str) -> str:
    node = fleet.nodes.get(node_id)
    return plain(node.name if node is not None else node_id)


def gb(count_bytes: float) -> str:
    """Bytes in 10^9, as memory and disks are sold."""
    return f"{count_bytes / 1e9:.1f} GB"


def ram(count_bytes: float) -> str:
    """Bytes in 2^30, called GB, as memory is sold."""
    return f"{count_bytes / 2**30:.1f} GB"


def percent(part: float, whole: float) -> str:
    share = 100.0 * part / whole if whole else 0.0
    return f"{share:.1f} %" if share < 9.95 else f"{share:.0f} %"


def seconds(length_s: float) -> str:
    if length_s < 120:
        return f"{length_s:.0f} s"
    return f"{length_s / 60:.0f} min" if length_s < 7200 else f"{length_s / 3600:.0f} h"


def counted(count: int, one: str, many: str = "") -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def listed(names: list[str], most: int = 3) -> str:
    """The first few, and how many more."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
