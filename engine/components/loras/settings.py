"""What an adapter's settings say about its strength: peft's ``adapter_config.json``, or the same in the header of the
file, as diffusers writes it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite, sqrt
from pathlib import Path
from typing import Any

from peft.utils.other import get_pattern_key

from engine.errors import InvalidInput
from engine.models.folder import read_json

_TYPES = ("LORA", "LOHA", "LOKR")
_CHANGES_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")
"""Ways to begin a training that change the weights of the model itself; the adapter alone is not what was trained."""
_OTHER_SUMS = (
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "layer_replication",
    "kasa_config",
    "arrow_config",
)
"""Settings of peft under which the change is not that of a plain adapter."""


@dataclass(frozen=True)
class Settings:
    """alpha, rank: for layers that the patterns do not name.
    patterns: regular expressions of the ends of layers' names, with their values.
    by_root: alpha is divided by the square root of the rank (rsLoRA, arXiv 2312.03732)."""

    alpha: float
    rank: int
    alpha_pattern: Mapping[str, float]
    rank_pattern: Mapping[str, int]
    by_root: bool

    def scaling(self, path: str, rank: int | None) -> float:
        """The factor of a layer's change.

        Args:
            path: of the layer, as the file spells it.
            rank: of its factors; None where they do not show it.
        """
        alpha = self.alpha_pattern.get(get_pattern_key(list(self.alpha_pattern), path), self.alpha)
        rank = rank or self.rank_pattern.get(get_pattern_key(list(self.rank_pattern), path), self.rank)
        return alpha / (sqrt(rank) if self.by_root else rank)


def read_settings(file: Path, metadata: Mapping[str, str]) -> Settings | None:
    """The settings of an adapter, if it has any.

    Args:
        metadata: of the file's header.

    Raises:
        InvalidInput: they are damaged, or of a kind of adapter that is not applied.
    """
    beside = file.parent / "adapter_config.json"
    if beside.is_file() and (file.name == "adapter_model.safetensors" or _is_alone(file)):
        return _settings(read_json(beside), beside)
    if text := metadata.get("lora_adapter_metadata"):
        try:
            content = json.loads(text)
            own = {key.removeprefix("transformer."): value for key, value in content.items()}
        except (ValueError, AttributeError, RecursionError) as error:
            raise InvalidInput(f"The header of {file} has damaged settings ({error}): download it again.") from None
        return _settings({key: value for key, value in own.items() if "." not in key}, file)
    return None


def header_alpha(metadata: Mapping[str, str]) -> float | None:
    """The alpha that a trainer noted in the header. No tool applies it, and files that were converted to have none keep
    the note."""
    try:
        return float(metadata["ss_network_alpha"])
    except (KeyError, ValueError):
        return None


def _is_alone(file: Path) -> bool:
    return len(list(file.parent.glob("*.safetensors"))) == 1


def _settings(content: Mapping[str, Any], source: Path) -> Settings | None:
    kind = content.get("peft_type")
    if kind is not None and kind not in _TYPES:
        raise InvalidInput(f"{source} says that the adapter is a {kind}: only {', '.join(_TYPES)} are applied.")
    begun = content.get("init_lora_weights")
    if isinstance(begun, str) and begun.startswith(_CHANGES_BASE):
        raise InvalidInput(
            f"{source} has init_lora_weights {begun}, which changes the model's own weights as well: save the adapter "
            "with peft's path_initial_model_for_weight_conversion."
        )
    for name in _OTHER_SUMS:
        if content.get(name):
            raise InvalidInput(f"{source} has {name}, which is not applied: leave the adapter out of model.loras.")
    alpha = content.get("lora_alpha", content.get("alpha"))
    if alpha is None:
        return None
    patterns = {name: content.get(name) or {} for name in ("alpha_pattern", "rank_pattern")}
    rank = content.get("r", 8)
    numbers = {"alpha": alpha, "r": rank}
    for name, pattern in patterns.items():
        if not isinstance(pattern, dict):
            raise InvalidInput(f"{source} has {name} {pattern!r}, which is no table: correct it.")
        numbers |= {f"{name} {key}": value for key, value in pattern.items()}
    for name, value in numbers.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)
        if not is_number or (name.startswith("r") and value < 1):
            raise InvalidInput(f"{source} has {name} {value!r}, which is no number that it could be: correct it.")
    return Settings(float(alpha), int(rank), **patterns, by_root=bool(content.get("use_rslora")))
