"""What `lockstep config` prints: the resolved configuration."""

from __future__ import annotations

from typing import IO

import yaml

from engine.checks.cache_choice import choose_cache
from engine.config import Config
from engine.errors import InvalidInput
from engine.request import make_request
from launch.process.printable import printable
from launch.screens.layout import find_facts


def print_config(config: Config, stream: IO[str]) -> None:
    """Print it as YAML, with all defaults and with what the cache leaves open chosen for the model.

    What was chosen is said in comments above. Where the model is neither here nor published, or where a calibration is
    named and the model is not here to be compared with it, the cache section stays as it was given.
    """
    reasons: list[str] = []
    sections = config.model_dump(mode="json")
    try:
        said, facts = find_facts(config)
        if said and config.cache.calibration is not None:
            raise InvalidInput("The model is not here.")
        choice = choose_cache(config, make_request(["-"], "", 0, config.sampling), facts)
        sections["cache"], reasons = choice.cache.model_dump(mode="json"), list(choice.reasons)
    except InvalidInput:
        if config.cache.method == "auto" or config.cache.quality is not None:
            reasons = ["chosen when the model is here"]
    for reason in reasons:
        print(printable(f"# cache: {reason}"), file=stream)
    text = yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)
    if not text.replace("\n", "").isprintable():  # marks that change the direction of text
        text = yaml.safe_dump(sections, sort_keys=False)
    stream.write(text)
