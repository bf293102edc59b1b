"""All estimators by name. A new estimator is added to the union here."""

from collections.abc import Mapping
from typing import Annotated, get_args

from pydantic import Field

from dicache.estimators.adams_bashforth import AdamsBashforthSettings
from dicache.estimators.alignment import AlignmentSettings
from dicache.estimators.estimator import EstimatorSettings
from dicache.estimators.fitted import FittedSettings
from dicache.estimators.foca import FoCaSettings
from dicache.estimators.hermite import HermiteSettings
from dicache.estimators.projection import ProjectionSettings
from dicache.estimators.reuse import ReuseSettings
from dicache.estimators.ridge import RidgeSettings
from dicache.estimators.taylor import TaylorSettings

AnyEstimator = Annotated[
    ReuseSettings
    | AlignmentSettings
    | ProjectionSettings
    | TaylorSettings
    | HermiteSettings
    | AdamsBashforthSettings
    | FoCaSettings
    | RidgeSettings
    | FittedSettings,
    Field(discriminator="name"),
]
ESTIMATORS: Mapping[str, type[EstimatorSettings]] = {
    settings.model_fields["name"].default: settings for settings in get_args(get_args(AnyEstimator)[0])
}
