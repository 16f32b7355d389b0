"""What podman is told, and what never gets on a command line."""

import stat
from pathlib import Path
from typing import Any

import pytest

from embedded.emulator.cgroups import OutOfMemoryWatch, events_file, kills
from embedded.emulator.podman import container_options, environment_options, limits, said
from embedded.emulator.runtime import CannotStartContainerError, ContainerSpec

ALWAYS = {
    "--pull=never",
    "--log-driver=passthrough",
    "--network=host",
    "--cap-drop=all",
    "--read-only-tmpfs=false",
    "--http-proxy=false",
}


def spec(override: dict[str, Any] | None = None, *, cpu: int = 512, **definition: Any) -> ContainerSpec:
    return ContainerSpec(
        task_id="0123",
        arn="arn:c",
        definition={"name": "main", "image": "acme/flows:1", **definition},
        override=override or {},
        environment={"SECRET": "s3cret"},
        home=Path("/nowhere"),
        cpu=cpu,
        memory_mib=1024,
        on_lines=print,
    )


def options(given: ContainerSpec) -> list[str]:
    return [option for option in container_options("mark", given) if option not in ALWAYS]


def test_what_every_container_gets() -> None:
    assert set(container_options("mark", spec())) == {*ALWAYS, "acme/flows:1"}
    assert "s3cret" not in "".join(container_options("mark", spec()))


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ({"user": "1:2"}, ["--user=1:2"]),
        ({"readonlyRootFilesystem": True}, ["--read-only"]),
        ({"readonlyRootFilesystem": False}, []),
        ({"workingDirectory": "/srv"}, ["--workdir=/srv"]),
        ({"linuxParameters": {"initProcessEnabled": True}}, ["--init"]),
        (
            {"mountPoints": [{"sourceVolume": "disk", "containerPath": "/d"}]},
            ["--volume=mark-0123-disk:/d"],
        ),
        (
            {"mountPoints": [{"sourceVolume": "disk", "containerPath": "/d", "readOnly": True}]},
            ["--volume=mark-0123-disk:/d:ro"],
        ),
        ({"entryPoint": ["sh", "-c", 'a "b"']}, ['--entrypoint=["sh", "-c", "a \\"b\\""]']),
    ],
)
def test_task_definition_becomes_options(definition: dict, expected: list[str]) -> None:
    assert options(spec(**definition)) == [*expected, "acme/flows:1"]


def test_command_follows_the_image_and_an_override_wins() -> None:
    assert options(spec(command=["a", "--b"])) == ["acme/flows:1", "a", "--b"]
    assert options(spec({"command": ["c"]}, command=["a", "--b"])) == ["acme/flows:1", "c"]


def test_limits_are_fargates() -> None:
    assert limits(spec()) == ["--cpus=0.5", "--memory=1024m", "--memory-swap=1024m"]
    assert limits(spec(cpu=256))[0] == "--cpus=0.25"


def test_variables_pass_by_name_and_podmans_own_by_a_private_file(tmp_path: Path) -> None:
    wanted = {
        "SECRET": "two\nlines",
        "EMPTY": "",
        "PATH": "/opt/venv/bin:/bin",
        "XDG_CACHE_HOME": " # as it is ",
        "CONTAINERS_CONF": "/mine",
    }
    file = tmp_path / "env"
    given, inherited = environment_options(wanted, {"PATH": "/bin", "HOME": "/"}, file)
    assert given == ["--env=SECRET", "--env=EMPTY", f"--env-file={file}"]
    assert inherited == {"SECRET": "two\nlines", "EMPTY": ""}
    assert file.read_text() == "PATH=/opt/venv/bin:/bin\nXDG_CACHE_HOME= # as it is \nCONTAINERS_CONF=/mine\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_no_file_without_need(tmp_path: Path) -> None:
    file = tmp_path / "env"
    assert environment_options({"A": "1"}, {"PATH": "/bin"}, file) == (["--env=A"], {"A": "1"})
    assert not file.exists()


@pytest.mark.parametrize("name", ["PATH", "LD_PRELOAD", "CONTAINERS_CONF"])
def test_two_lines_for_podman_itself_are_refused_without_showing_them(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        CannotStartContainerError, match=f"environment variable {name} has more than one line"
    ) as caught:
        environment_options({name: "s3cret\n"}, {"PATH": "/bin"}, tmp_path / "env")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("Error: no such image\n", "no such image"),
        ("time=x level=warning msg=y\nError: crun: exec: not found\n\n", "crun: exec: not found"),
        ("", "podman said nothing"),
    ],
)
def test_reason_is_the_last_line(printed: str, reason: str) -> None:
    assert said(printed) == reason


def test_memory_cgroup_of_both_versions(tmp_path: Path) -> None:
    hybrid = "9:name=systemd:/x\n4:memory:/parent/c1\n1:cpu,cpuacct:/x\n0::/\n"
    assert events_file(hybrid, tmp_path) == tmp_path / "memory" / "parent" / "c1" / "memory.oom_control"
    assert events_file("0::/user.slice/c1\n", tmp_path) is None, "no such hierarchy is mounted"
    (tmp_path / "cgroup.controllers").touch()
    assert events_file("0::/user.slice/c1\n", tmp_path) == tmp_path / "user.slice" / "c1" / "memory.events"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", 2),
        ("low 0\nhigh 0\nmax 5\noom 1\noom_kill 1\noom_group_kill 0\n", 1),
        ("oom_kill 0\n", 0),
        ("", 0),
    ],
)
def test_kills_are_counted(text: str, count: int) -> None:
    assert kills(text) == count


def test_a_process_that_is_gone_was_not_killed_for_its_memory() -> None:
    with OutOfMemoryWatch(2**22 + 1) as watch:  # above the largest process id
        assert not watch.look()
    assert not watch.used_up
