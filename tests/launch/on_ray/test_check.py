"""`lockstep check` on a Ray cluster: each rank has a worker of its own on its node."""

import json
from typing import Any

import pytest

from tests.support.check_site import CHECK_INJECTED
from tests.support.ray_nodes import PLAIN, assert_nothing_left
from tests.support.shell import ROOT, Shell, finish

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


def test_lines_hold_over_two_nodes(cluster: Any, shell: Shell) -> None:
    shown = ["--only=copies", "--only=links", "--only=layout cfg", "--only=stopped"]
    ray = ["--launcher=ray", f"--ray-address={cluster.address}", "--ranks=2"]
    environment = PLAIN | {"PYTHONPATH": f"{ROOT}:{CHECK_INJECTED}"}
    out, err = finish(shell.lockstep("check", "--report=r.json", *shown, *ray, **environment))
    report = json.loads((shell.folder / "r.json").read_text())
    states = {line["name"]: line["state"] for line in report["lines"]}
    assert states == {"copies": "holds", "links": "holds", "layout cfg 2": "holds", "stopped rank": "not here"}, err
    assert report["nodes"] == 2 and "2 ranks on 2 machines" in out
    assert_nothing_left(cluster, shell)
