import pytest

from embedded import EmbeddedError, runtimes


@pytest.fixture
def everything_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes.shutil, "which", lambda name: f"/usr/bin/{name}")


@pytest.mark.usefixtures("everything_installed")
@pytest.mark.parametrize(
    ("given", "variable", "expected"),
    [
        (None, None, "process"),
        (None, "", "process"),
        (None, "process", "process"),
        (None, "podman", "podman"),
        ("process", "podman", "process"),
        ("podman", None, "podman"),
    ],
)
def test_argument_then_environment_then_processes(
    given: str | None, variable: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(runtimes.VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(runtimes.VARIABLE, variable)
    assert runtimes.chosen(given) == expected


def test_what_it_may_be_is_said() -> None:
    with pytest.raises(EmbeddedError, match=r"EMBEDDED_RUNTIME is 'docker'; it must be process .* or podman"):
        runtimes.chosen("docker")


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes.shutil, "which", lambda name: "/usr/bin/crun" if name == "crun" else None)
    with pytest.raises(EmbeddedError, match=r"has no podman, conmon; .*: apt-get install podman conmon crun$"):
        runtimes.chosen("podman")
    assert runtimes.chosen("process") == "process"
