"""`herd keys`: make, list and revoke API keys, in the database, also while the router runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from ollama_herd import logs
from ollama_herd.cli import show
from ollama_herd.cli.lazy import Commands
from ollama_herd.cli.options import load_or_fail, setting
from ollama_herd.cli.process import fail
from ollama_herd.clock import now_s
from ollama_herd.config import RouterSettings
from ollama_herd.core.access import ApiKey, Scope

if TYPE_CHECKING:
    from ollama_herd.store.access import AccessStore

app = Commands(help="API keys: who may use the herd, and for what.", no_args_is_help=True)

_SCOPES = {scope.name.lower(): scope for scope in Scope}

HomeOption = Annotated[str | None, setting(RouterSettings, "home", "FOLDER")]
Json = Annotated[bool, typer.Option("--json", metavar="", help="print JSON")]


@contextmanager
def opened_access(home: str | None) -> Iterator["AccessStore"]:
    """The store of this herd; a database that cannot be used ends the command in one line."""
    from ollama_herd.store.access import AccessStore  # noqa: PLC0415 - help needs no database
    from ollama_herd.store.database import Database  # noqa: PLC0415
    from ollama_herd.store.errors import StoreError  # noqa: PLC0415

    settings = load_or_fail(RouterSettings, {"home": home}).settings
    logs.setup("warning")
    database = Database(settings.database_url or settings.home)
    try:
        yield AccessStore(database, settings.home)
    except StoreError as error:
        fail(str(error))
    finally:
        database.close()


@app.command()
def create(  # noqa: PLR0913 - one parameter an option
    name: Annotated[str, typer.Argument(help="who or what it is for")],
    *,
    scope: Annotated[
        str, typer.Option(metavar="SCOPE", help="inference, manage (models) or admin (all)")
    ] = "inference",
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="only these models, such as 'llama3*'; may repeat"),
    ] = None,
    requests_per_minute: Annotated[int, typer.Option(min=0, help="0: no limit")] = 0,
    tokens_per_minute: Annotated[int, typer.Option(min=0, help="prompt and answer; 0: none")] = 0,
    concurrency: Annotated[int, typer.Option(min=0, help="requests at once; 0: no limit")] = 0,
    batch: Annotated[
        bool, typer.Option("--batch", metavar="", help="its requests wait behind all others")
    ] = False,
    home: HomeOption = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once. With the first key the herd asks everyone for one."""
    if scope not in _SCOPES:
        fail(f"'{scope}' is no scope: choose one of {', '.join(_SCOPES)}", code=2)
    if not name.strip() or not name.isprintable() or len(name) > 100:
        fail("a key needs a name of up to 100 printable characters", code=2)
    from ollama_herd.store.access import new_key  # noqa: PLC0415 - as above

    key_id, key, key_hash = new_key()
    entry = ApiKey(
        key_id=key_id,
        name=name.strip(),
        key_hash=key_hash,
        scope=_SCOPES[scope],
        models=tuple(pattern.strip().lower() for pattern in model or ()),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrency=concurrency,
        is_batch=batch,
        created_s=now_s(),
    )
    with opened_access(home) as store:
        if any(known.name == entry.name and not known.revoked_s for known in store.load().api_keys):
            fail(f"there is a key '{entry.name}' already; revoke it, or choose another name")
        store.put(key_id, entry)
        store.load()
    if as_json:
        typer.echo(msgspec.json.encode({**_shown(entry), "key": key}))
        return
    typer.echo(key)
    typer.echo(
        "This key is shown once and kept only as a hash. A running herd takes it within a few "
        "seconds and asks everyone for a key from then on.",
        err=True,
    )


@app.command("list")
def list_keys(*, home: HomeOption = None, as_json: Json = False) -> None:
    """Show all keys and what they may do."""
    with opened_access(home) as store:
        keys = sorted(store.load().api_keys, key=lambda key: key.created_s)
    if as_json:
        typer.echo(msgspec.json.encode([_shown(key) for key in keys]))
        return
    if not keys:
        typer.echo("no keys: the herd is open to every client that allowed_clients lets in")
        return
    table = show.table("id", "name", "scope", "models", "limits", "state")
    for key in keys:
        state = "revoked" if key.revoked_s else "good"
        models = ", ".join(key.models) or "all"
        scope = key.scope.name.lower()
        show.row(table, (key.key_id, key.name, scope, models, _limits(key), state))
    show.console().print(table)


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="its name or id")], *, home: HomeOption = None
) -> None:
    """Make a key worthless, at once for a running herd (within a few seconds)."""
    with opened_access(home) as store:
        good = [known for known in store.load().api_keys if not known.revoked_s]
        found = [known for known in good if key in (known.name, known.key_id)]
        if not found:
            fail(f"there is no key '{key}' to revoke; 'herd keys list' shows them")
        for known in found:
            store.put(known.key_id, msgspec.structs.replace(known, revoked_s=now_s()))
    typer.echo(f"revoked: {key}")
    if len(good) == len(found):
        typer.echo(
            "No good key is left, so nobody gets in. 'herd keys create' makes one; "
            "'herd keys off' opens the herd to all.",
            err=True,
        )


@app.command()
def off(
    *,
    yes: Annotated[bool, typer.Option("--yes", metavar="", help="do not ask")] = False,
    home: HomeOption = None,
) -> None:
    """Remove all keys: everyone who can reach the herd may use it again."""
    if not yes:
        typer.confirm("Remove all keys and open the herd to every client it can hear?", abort=True)
    with opened_access(home) as store:
        store.drop(ApiKey)
        store.load()
    typer.echo("no keys any more: the herd is open")


def _shown(key: ApiKey) -> dict[str, object]:
    """All but the hash."""
    shown = msgspec.structs.asdict(key)
    del shown["key_hash"]
    return {**shown, "scope": key.scope.name.lower()}


def _limits(key: ApiKey) -> str:
    named = (
        (key.requests_per_minute, "requests/min"),
        (key.tokens_per_minute, "tokens/min"),
        (key.concurrency, "at once"),
    )
    limits = [f"{value} {unit}" for value, unit in named if value]
    return ", ".join([*limits, *(["batch"] if key.is_batch else [])]) or "none"
