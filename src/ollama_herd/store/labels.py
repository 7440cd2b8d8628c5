"""Texts that repeat, kept once: a trace refers to its model, node, client, ... by number.

The writer turns texts into numbers, queries turn numbers back. 0 is "" and is not stored.
"""

from collections.abc import Callable, Iterable, Mapping

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from ollama_herd.store.schema import labels

LABEL_CHARS = 512
"""Longer texts are cut: model names, paths and client addresses are far shorter, and PostgreSQL
indexes at most 2,704 bytes (512 characters of four bytes stay below)."""

CACHED_LABELS = 20_000
"""The writer forgets all of its numbers beyond this, which bounds its memory when someone asks for
ever new model names; the numbers are looked up again."""

TEXT_SPACE = 0
TAGS_SPACE = 1
"""Sets of tags are labels too, apart from plain texts: see `tags_text`."""

_TAG_SEPARATOR = "\x1f"  # ASCII unit separator


def stored_text(text: str) -> str:
    """`text` as it is kept: cut, and without what a database refuses (NUL, lone surrogates)."""
    if len(text) > LABEL_CHARS:
        text = text[: LABEL_CHARS - 1] + "…"
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def tags_text(tags: Iterable[str]) -> str:
    """A set of tags as one text, whole tags up to LABEL_CHARS."""
    cleaned = [stored_text(tag).replace(_TAG_SEPARATOR, "\ufffd") for tag in tags if tag]
    kept: list[str] = []
    length = 0
    for tag in cleaned:
        length += len(tag) + 1
        if length > LABEL_CHARS:
            break
        kept.append(tag)
    return _TAG_SEPARATOR.join(kept)


def tags_of(text: str) -> tuple[str, ...]:
    """The tags that `tags_text` joined."""
    return tuple(text.split(_TAG_SEPARATOR)) if text else ()


class LabelNumbers(dict[str | tuple[str, ...], int]):
    """Numbers by text (or by tuple of tags); an unknown one is stored when it is looked up.

    Belongs to the writer thread, and uses a transaction of `connection` of its own: never look up
    within another. Looking up raises SQLAlchemyError when the database fails.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__({"": 0, (): 0})
        self._connection = connection
        insert = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
        self._insert = insert(labels).on_conflict_do_nothing()

    def __missing__(self, key: str | tuple[str, ...]) -> int:
        if isinstance(key, tuple):
            space, text = TAGS_SPACE, tags_text(key)
        else:
            space, text = TEXT_SPACE, stored_text(key)
            key = str(key)  # an enum member is equal to its value, but larger
        number = self._stored(space, text) if text else 0
        self[key] = number
        return number

    def _stored(self, space: int, text: str) -> int:
        query = select(labels.c.id).where(labels.c.space == space, labels.c.text == text)
        with self._connection.begin():
            number = self._connection.execute(query).scalar()
        if number is None:
            with self._connection.begin():
                self._connection.execute(self._insert, {"space": space, "text": text})
                number = self._connection.execute(query).scalar_one()
        return int(number)

    def bound(self) -> None:
        """Forget everything when there is too much of it; called between batches."""
        if len(self) > CACHED_LABELS:
            self.forget()

    def forget(self) -> None:
        self.clear()
        self[""] = self[()] = 0


def texts_of(connection: Connection, numbers: Iterable[int]) -> Mapping[int, str]:
    """The texts of the given labels; one that is gone is missing."""
    wanted = sorted(set(numbers) - {0})
    found: dict[int, str] = {0: ""}
    for start in range(0, len(wanted), 500):  # parameters a statement: SQLite had 999 before 2020
        query = select(labels.c.id, labels.c.text).where(
            labels.c.id.in_(wanted[start : start + 500])
        )
        found.update((row.id, row.text) for row in connection.execute(query))
    return found


def numbers_where(
    connection: Connection,
    space: int,
    containing: str,
    matches: Callable[[str], bool] = lambda _text: True,
) -> list[int]:
    """Labels of a space whose text contains `containing` (any case of ASCII) and `matches`."""
    query = select(labels.c.id, labels.c.text).where(
        labels.c.space == space, labels.c.text.icontains(containing, autoescape=True)
    )
    return [row.id for row in connection.execute(query) if matches(row.text)]


def number_of(connection: Connection, text: str) -> int | None:
    """The label of a text, None when no trace ever had it."""
    if not text:
        return 0
    query = select(labels.c.id).where(
        labels.c.space == TEXT_SPACE, labels.c.text == stored_text(text)
    )
    found = connection.execute(query).scalar()
    return None if found is None else int(found)
