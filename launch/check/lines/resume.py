"""A run that is killed and goes on from its checkpoint."""

from __future__ import annotations

import json
import signal

from launch.check.commands import start
from launch.check.finding import Finding, falls_short, holds
from launch.check.site import Site
from launch.check.video import config_for, loaded, make, relative_error, request_of

_KILLED_IN_STEP = 7
_THRESHOLD = 0.5


def killed_and_resumed(site: Site) -> Finding:
    """A process is killed in its eighth step; another one goes on, and its latents are those of a run that was left
    alone, bit for bit."""
    config = config_for(site)
    often = config.checkpoint.model_copy(update={"every": 1})
    # most steps after the kill are then skipped, so that they depend on what the checkpoint holds of the cache
    cache = config.cache.changed({"threshold": _THRESHOLD})
    config = config.model_copy(update={"checkpoint": often, "cache": cache})
    checkpoints = site.folder / "checkpoints"
    order = {"config": config.model_dump_json(), "folder": str(checkpoints), "step": _KILLED_IN_STEP}
    process = start(site, ["-m", "launch.check.lines.killed"], stdin=json.dumps(order))
    with loaded(config) as engine:  # meanwhile
        whole = make(engine, request_of(config))
        _, err = process.communicate()
        if process.returncode != -signal.SIGKILL:
            words = " ".join(err.split())[-200:]
            return falls_short("", f"the run ended with exit code {process.returncode} before it was killed: {words}")
        result = engine.generate(request_of(config), checkpoint=checkpoints)
    assert result.report is not None, "this is the first rank"
    at, sha256 = result.report["resumed_at"], result.report["output"]["latents_sha256"]
    if not at:
        return falls_short("", "no checkpoint was found: the run began anew")
    figure = f"killed in step {_KILLED_IN_STEP}, resumed after {at[-1]} steps, sha256 {sha256[:12]}"
    if sha256 != whole.sha256:
        error = relative_error(result.latents.float().cpu(), whole.latents)
        return falls_short(figure, f"its latents are {error:.1e} from those of a run that was not killed")
    return holds(figure, "equal bits to a run that was not killed")
