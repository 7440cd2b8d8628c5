"""Model names: one key for everything people write for the same model."""

import gc
import string
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_herd.core.names import KEPT_NAMES, canonical_name

PART = st.text(string.ascii_lowercase + string.digits + "-_.", min_size=1, max_size=8)
HOST = PART.map(lambda name: f"{name}.example:5000")


@st.composite
def names(draw):
    model, tag = draw(PART), draw(PART)
    namespace = draw(st.none() | PART)
    host = draw(st.none() | HOST) if namespace else None
    path = "/".join(part for part in (host, namespace, model) if part)
    return path, tag


@given(names())
def test_is_idempotent(parts):
    path, tag = parts
    key = canonical_name(f"{path}:{tag}")
    assert canonical_name(key) == key


@given(names())
def test_case_and_blanks_do_not_matter(parts):
    path, tag = parts
    name = f"{path}:{tag}"
    assert canonical_name(f"  {name.upper()} ") == canonical_name(name)


@given(names())
def test_default_tag_is_latest(parts):
    path, _ = parts
    assert canonical_name(path) == canonical_name(f"{path}:latest")


@given(PART, PART)
def test_defaults_in_front_are_left_out(model, tag):
    short = f"{model}:{tag}"
    assert canonical_name(f"library/{short}") == canonical_name(short)
    assert canonical_name(f"registry.ollama.ai/library/{short}") == canonical_name(short)


@given(names(), names())
def test_other_models_have_other_keys(one, other):
    one, other = (canonical_name(f"{path}:{tag}") for path, tag in (one, other))
    assert (one == other) == (one.removeprefix("library/") == other.removeprefix("library/"))


@given(PART, PART, PART, PART)
def test_namespaces_and_tags_tell_models_apart(namespace, model, tag, other):
    if other in {tag, "library"} or namespace == other:
        return
    assert canonical_name(f"{model}:{tag}") != canonical_name(f"{model}:{other}")
    assert canonical_name(f"{namespace}/{model}:{tag}") != canonical_name(f"{other}/{model}:{tag}")


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ("llama3.2", "llama3.2:latest"),
        ("Llama3.2:3B", "llama3.2:3b"),
        ("hf.co/Owner/Repo-GGUF:Q4_K_M", "hf.co/owner/repo-gguf:q4_k_m"),
        ("localhost:5000/me/mine", "localhost:5000/me/mine:latest"),
        ("registry.ollama.ai/me/mine", "me/mine:latest"),
        ("", ":latest"),
    ],
)
def test_names_as_people_write_them(asked, key):
    assert canonical_name(asked) == key


class Text(str):
    """Whose end can be seen."""

    __slots__ = ("__weakref__",)


def test_long_names_are_not_kept():
    name = Text("x" * 100_000)
    assert canonical_name(name) == f"{name}:latest"
    seen = weakref.ref(name)
    del name
    gc.collect()
    assert seen() is None


def test_so_many_names_are_kept():
    seen = []
    for number in range(3 * KEPT_NAMES):
        name = Text(f"name-{number}")
        assert canonical_name(name) == f"name-{number}:latest"
        seen.append(weakref.ref(name))
    del name
    gc.collect()
    assert sum(one() is not None for one in seen) <= KEPT_NAMES
