"""The calls that the CDK CLI makes of docker."""

import io
import subprocess
from pathlib import Path
from typing import Any

import pytest

from embedded import launching
from embedded.images import docker

NAME = "000000000000.dkr.ecr.us-east-1.amazonaws.com/cdk-assets:0123"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What podman and the build were asked for; podman knows the image ``there``."""
    seen: list[Any] = []

    def podman(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        seen.append(arguments)
        return subprocess.CompletedProcess(arguments, 0 if arguments[-1] != "absent" else 1, "out\n", "")

    monkeypatch.setattr(docker.podman, "podman", podman)
    monkeypatch.setattr(docker, "build", lambda tag, **given: seen.append((tag, given)))
    monkeypatch.setattr(docker.platform, "machine", lambda: "x86_64")
    return seen


def test_inspect_tells_whether_it_is_there(calls: list[Any]) -> None:
    assert docker.main(["inspect", "there"]) == 0
    assert docker.main(["inspect", "absent"]) == 1
    assert calls[0] == ("image", "exists", "there")


def test_build_is_ours(calls: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["--build-arg", "A=1=2", "--tag", "cdkasset-1", "--target", "baked", "--file", "docker/Dockerfile"]
    assert docker.main(["build", *arguments, "--platform", "linux/amd64", "."]) == 0
    assert calls == [
        (
            "cdkasset-1",
            {
                "file": tmp_path / "docker" / "Dockerfile",
                "context": tmp_path,
                "target": "baked",
                "build_args": {"A": "1=2"},
            },
        )
    ]


def test_another_architecture_is_refused(calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert docker.main(["build", "--tag", "a", "--platform", "linux/arm64", "."]) == 1
    assert "the image is for linux/arm64, and this machine builds and runs linux/amd64 only" in capsys.readouterr().err
    assert calls == []


def test_what_it_cannot_do_is_not_ignored(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        docker.main(["build", "--tag", "a", "--ssh", "default", "."])
    assert caught.value.code == 2
    assert "unrecognized arguments: --ssh" in capsys.readouterr().err


def test_tag_login_and_images(calls: list[Any], monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("token"))
    assert docker.main(["login", "--username", "AWS", "--password-stdin", "registry"]) == 0
    assert docker.main(["--config", "/tmp/c", "tag", "cdkasset-1", NAME]) == 0  # noqa: S108
    assert docker.main(["images", "--format", "{{.Tag}}", "--filter", "reference=*/*:1"]) == 0
    assert calls == [("tag", "cdkasset-1", NAME), ("images", "--format", "{{.Tag}}", "--filter", "reference=*/*:1")]
    assert capsys.readouterr().out == "out\n"


def test_push_registers_the_manifest(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Ecr:
        def put_image(self, **given: str) -> None:
            calls.append(given)

    monkeypatch.setattr("boto3.client", lambda service: Ecr())
    monkeypatch.setattr(docker, "manifest", lambda image: f"manifest of {image}")
    assert docker.main(["push", NAME]) == 0
    assert calls == [{"repositoryName": "cdk-assets", "imageTag": "0123", "imageManifest": f"manifest of {NAME}"}]


@pytest.mark.parametrize("name", ["docker.io/acme/flows:1", NAME.partition(":")[0], "cdkasset-1"])
def test_push_to_elsewhere_is_refused(name: str, calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert docker.main(["push", name]) == 1
    assert "must be in an ECR" in capsys.readouterr().err


def test_the_program_can_be_started() -> None:
    path = f"{launching.VENV_BIN}:/usr/bin:/bin"
    done = subprocess.run(
        [docker.CDK_DOCKER, "--help"], env={"PATH": path}, capture_output=True, text=True, check=True, cwd="/"
    )
    assert "as far as the CDK CLI calls it" in done.stdout
