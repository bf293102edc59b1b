"""Ray's private parts that Lockstep uses, in one place: a new version of Ray is checked here."""

from __future__ import annotations

import ray


def free_resources_by_node() -> list[dict[str, float]]:
    """What is free on each living node now, by name of the resource.

    Ray's public ``ray.available_resources()`` adds the nodes up, but a bundle has to fit on one of them.
    """
    return list(ray._private.state.available_resources_per_node().values())
