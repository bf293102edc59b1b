"""A model by its id on the hub, from the command line."""

import json
from pathlib import Path

import pytest

from tests.support.hub import COMMIT, Hub, serving
from tests.support.shell import Shell, untimed

ID = "org/tiny"

pytestmark = pytest.mark.timeout(300)


@pytest.mark.slow
def test_ranks_that_start_together_download_once_and_the_cache_serves_the_rest(shell: Shell) -> None:
    cache = shell.folder / "home" / "hub"
    named = f"--set=model.path={ID}"
    environment = {"HF_HUB_CACHE": str(cache), "HF_HOME": str(cache.parent)}
    with serving(Hub({ID: shell.model})) as hub:
        process = shell.torchrun(2, "--prompt=x", "--output=a.mp4", named, **environment, HF_ENDPOINT=hub.url)
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert max(hub.downloads.values()) == 1
    report = json.loads((shell.folder / "a.json").read_text())
    assert report["world_size"] == 2
    folder = Path(report["request"]["model"]["path"])
    assert folder == cache / "models--org--tiny" / "snapshots" / COMMIT, "which names the commit"
    assert len([line for line in err.splitlines() if "on the hub" in line]) == 1

    arguments = shell.options("--devices=2", named)
    process = shell.lockstep("layout", *arguments, **environment, HF_ENDPOINT="http://127.0.0.1:9")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and "ulysses 2" in out and not err, err


@pytest.mark.parametrize("command", [["generate", "--prompt=x"], ["layout", "--devices=2"]], ids=lambda c: c[0])
def test_what_cannot_be_had_is_one_line(command: list[str], shell: Shell) -> None:
    environment = {"HF_HOME": str(shell.folder / "home"), "HF_ENDPOINT": "http://127.0.0.1:9"}
    name, *arguments = command
    process = shell.lockstep(name, *shell.options(*arguments, f"--set=model.path={ID}"), **environment)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    *before, line = untimed(err)
    assert line.startswith(f"lockstep: model.path is '{ID}', which is n") and line.endswith(".")
    assert len(before) == (name != "layout") and "Traceback" not in err
