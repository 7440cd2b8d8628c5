"""Nothing is compiled where it is installed: what uv.lock names has wheels for every platform."""

import tomllib

import pytest
from packaging.tags import Tag
from packaging.utils import parse_wheel_filename
from tools.footprint import locked
from tools.matrix import versions

from tests.package.places import ROOT

LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
WHEELS = {
    package["name"]: [
        tag
        for wheel in package.get("wheels", [])
        for tag in parse_wheel_filename(wheel["url"].rsplit("/", 1)[1])[3]
    ]
    for package in LOCK["package"]
}
PLATFORMS = {
    "Linux on x86-64": ("linux", "manylinux", "x86_64"),
    "Linux on ARM64": ("linux", "manylinux", "aarch64"),
    "macOS on Apple Silicon": ("darwin", "macosx", ("arm64", "universal2")),
    "Windows": ("win32", "win", "amd64"),
}


def fits(tag: Tag, minor: int, system: str, machine: str | tuple[str, ...]) -> bool:
    """Whether CPython 3.`minor` on such a machine takes a wheel with this tag."""
    here = tag.platform.startswith(system) and tag.platform.endswith(machine)
    if not here and tag.platform != "any":
        return False
    if tag.interpreter.startswith("py"):
        return tag.interpreter in ("py2", "py3")
    if not tag.interpreter.startswith("cp3"):
        return False
    since = int(tag.interpreter.removeprefix("cp3"))
    return (since == minor and tag.abi == f"cp3{minor}") or (tag.abi == "abi3" and since <= minor)


@pytest.mark.parametrize("extra", ["", "demo", "otel", "postgres", "tls"])
@pytest.mark.parametrize("version", versions())
@pytest.mark.parametrize("where", PLATFORMS)
def test_no_compiler_is_needed(where: str, version: str, extra: str) -> None:
    platform, system, machine = PLATFORMS[where]
    python = {"python_version": version, "python_full_version": f"{version}.0"}
    names = locked([extra] if extra else [], sys_platform=platform, **python)
    minor = int(version.removeprefix("3."))
    assert not [
        name
        for name in sorted(names - {"ollama-herd"})
        if not any(fits(tag, minor, system, machine) for tag in WHEELS[name])
    ]
