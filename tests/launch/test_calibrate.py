"""`lockstep calibrate` as a person runs it."""

import json

import pytest

from tests.support.shell import Shell

pytestmark = pytest.mark.timeout(300)


@pytest.mark.slow
def test_two_ranks_write_a_file_that_generate_takes(shell: Shell) -> None:
    (shell.folder / "prompts.txt").write_text("a red circle\na blue square\n")
    refined = ("--set=calibrate.refine=[0.5]", "--set=calibrate.trials=3")
    options = shell.options("--prompts=prompts.txt", "--output=cal.json", *refined)
    process = shell.lockstep("calibrate", *options, "--ranks=2")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "cal.json" in out and not (shell.folder / "cal.partial").exists()
    written = json.loads((shell.folder / "cal.json").read_text())
    assert written["steps"] == 8 and len(written["prompts"]) == 2
    for budget in written["budgets"]:
        assert budget["compute"][0] == 0
    tried = {len(budget["compute"]): budget["trials"] for budget in written["budgets"]}
    assert 1 <= tried.pop(4) <= 3 and "trying up to 3 lists" in err
    assert set(tried.values()) == {0}, "what nobody asked for is as it was placed"
    assert [len(row) for row in written["products"]] == list(range(1, 17)), "8 steps of two branches"
    placed = [budget["damage"] for budget in written["budgets"] if len(budget["compute"]) != 4]
    assert placed == sorted(placed), "fewer steps, more damage"

    settings = (
        "--set=cache.method=calibrated",
        "--set=cache.calibration=cal.json",
        "--set=cache.gate.steps_skipped=0.5",
        "--set=cache.gate.brake=null",
    )
    process = shell.generate("--prompt=a green triangle", "--output=o.mp4", *settings)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "4 computed, 4 skipped" in out
