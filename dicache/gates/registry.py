"""All gates by name. A new gate is added to the union here."""

from collections.abc import Mapping
from typing import Annotated, get_args

from pydantic import Field

from dicache.gates.calibrated import CalibratedSettings
from dicache.gates.easycache import EasyCacheSettings
from dicache.gates.first_block import FirstBlockSettings
from dicache.gates.fixed import IntervalSettings, ListSettings
from dicache.gates.gate import GateSettings
from dicache.gates.innovation import InnovationSettings
from dicache.gates.magcache import MagCacheSettings
from dicache.gates.probe import ProbeSettings
from dicache.gates.teacache import TeaCacheSettings

AnyGate = Annotated[
    ProbeSettings
    | FirstBlockSettings
    | TeaCacheSettings
    | MagCacheSettings
    | EasyCacheSettings
    | InnovationSettings
    | CalibratedSettings
    | IntervalSettings
    | ListSettings,
    Field(discriminator="name"),
]
GATES: Mapping[str, type[GateSettings]] = {
    settings.model_fields["name"].default: settings for settings in get_args(get_args(AnyGate)[0])
}
