"""Who this node is, for as long as its home folder lives: an id and the secret that proves it."""

import json
import os
import secrets
import tempfile
import uuid
from pathlib import Path

import msgspec

from ollama_herd.agent.errors import AgentError

IDENTITY_FILE = "node.json"
NEXT_FILE = "node.next.json"
BOOT_FILE = "node.boot"

_PUT_RIGHT = (
    "The router knows this node by that file. Restore it from a backup; or move it away to join "
    "as a new node, and let the router forget the old one"
)

_ELSEWHERE = "Make the folder writable, or choose another with --home"


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`node_key` proves `node_id` to the router: who has it can speak for this node."""

    node_id: str
    node_key: str


def load_identity(home: Path) -> Identity:
    """The identity kept in `home`, made at the first call.

    Raises AgentError when the file is damaged or cannot be read or written; a damaged file is
    never replaced, since the router would take its owner for a stranger.
    """
    path = home / IDENTITY_FILE
    try:
        return _decode(path, path.read_bytes())
    except FileNotFoundError:
        return _create(path)
    except OSError as error:
        raise AgentError(f"{path} cannot be read: {error.strerror}. {_ELSEWHERE}") from None


class NodeKeys:
    """The key of this node and the one that is to follow it, over all of a process. Blocks."""

    def __init__(self, home: Path, identity: Identity) -> None:
        self._home = home
        self._node_id = identity.node_id
        self.current = identity.node_key

    def following(self) -> str:
        """The key that `draw_next_key` made, "" when there is none that can be used."""
        try:
            found = _decode(self._home / NEXT_FILE, (self._home / NEXT_FILE).read_bytes())
        except (OSError, AgentError):
            return ""
        return found.node_key if found.node_id == self._node_id else ""

    def adopt(self, key: str) -> None:
        """The router knows this node by `key` from now on. Raises OSError."""
        self.current = key
        (self._home / NEXT_FILE).replace(self._home / IDENTITY_FILE)


def draw_next_key(home: Path) -> None:
    """Make the key that the agent on this home shall change to; one made before and not used yet
    stays, as the router may know it already. Raises AgentError.
    """
    if not (home / IDENTITY_FILE).exists():
        raise AgentError(
            f"{home} holds no node's identity: name the folder of herd-node with --home"
        )
    identity = load_identity(home)
    following = Identity(identity.node_id, secrets.token_urlsafe(32))
    content = json.dumps(msgspec.to_builtins(following), indent=2).encode() + b"\n"
    try:
        _write_whole(home / NEXT_FILE, content, replace=False)
    except OSError as error:
        path = home / NEXT_FILE
        raise AgentError(f"{path} cannot be written: {error.strerror}. {_ELSEWHERE}") from None


def next_boot(home: Path, now_ms: int) -> int:
    """A number for this start that is larger than that of every start before.

    It is `now_ms` (ms since 1970) unless the clock went back since: a machine without a battery
    behind its clock would otherwise send reports that the router takes for old ones.
    """
    path = home / BOOT_FILE
    try:
        last = int(path.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        last = 0
    except OSError as error:
        raise AgentError(f"{path} cannot be read: {error.strerror}. {_ELSEWHERE}") from None
    boot = max(now_ms, last + 1)
    try:
        _write_whole(path, f"{boot}\n".encode(), replace=True)
    except OSError as error:
        raise AgentError(f"{path} cannot be written: {error.strerror}. {_ELSEWHERE}") from None
    return boot


def _decode(path: Path, content: bytes) -> Identity:
    try:
        identity = msgspec.json.decode(content, type=Identity)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AgentError(f"{path} is damaged ({error}). {_PUT_RIGHT}.") from None
    if not identity.node_id or not identity.node_key:
        raise AgentError(f"{path} is damaged (an empty value). {_PUT_RIGHT}.")
    return identity


def _create(path: Path) -> Identity:
    identity = Identity(node_id=uuid.uuid4().hex, node_key=secrets.token_urlsafe(32))
    content = json.dumps(msgspec.to_builtins(identity), indent=2).encode() + b"\n"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_whole(path, content, replace=False)
        return _decode(path, path.read_bytes())  # another process may have been first
    except OSError as error:
        raise AgentError(f"{path} cannot be written: {error.strerror}. {_ELSEWHERE}") from None


def _write_whole(path: Path, content: bytes, *, replace: bool) -> None:
    """All of the file or nothing, readable by its owner only; an existing one wins or goes."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)  # mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            temporary.replace(path)
        else:
            _publish(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _publish(temporary: Path, path: Path) -> None:
    """Give the file its name unless another process did so meanwhile."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return
    except OSError:  # a file system without hard links (exFAT, some network shares)
        if not path.exists():
            temporary.replace(path)
