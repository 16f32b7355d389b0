"""What cleans up after an emulator, however that ended."""

import json
import subprocess
import sys
from pathlib import Path

from embedded.emulator import reaper


def test_it_kills_then_runs_its_commands_then_removes_directories(tmp_path: Path) -> None:
    victim = subprocess.Popen(["sleep", "300"], start_new_session=True)
    directory, proof = tmp_path / "state", tmp_path / "proof"
    directory.mkdir()
    look = f"import os; open({str(proof)!r}, 'w').write(str(os.path.isdir({str(directory)!r})))"
    commands = [["no-such-program"], [sys.executable, "-c", look]]
    lines = [f"+{victim.pid}", *(f"!{json.dumps(command)}" for command in commands), '!["half a']
    subprocess.run(
        [sys.executable, "-P", reaper.__file__, "nobody-has-this-mark", "999999999", str(directory)],
        input="\n".join(lines),
        text=True,
        check=True,
        timeout=60,
    )
    assert victim.wait(10) == -9
    assert proof.read_text() == "True", "the directories go last"
    assert not directory.exists()
