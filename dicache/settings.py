"""The base of the settings of gates and estimators."""

from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict

_Item = TypeVar("_Item")


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


ListOf = Annotated[tuple[_Item, ...], BeforeValidator(_as_tuple)]
"""A list of the configuration. JSON has no tuples, and a strict model would refuse its lists."""

SHARED_KEYS = ("quality", "threshold", "warmup_ratio", "warmup_steps", "probe_depth")
"""Keys on the top level of the cache section that some gates and estimators look at and others do not."""


class Settings(BaseModel):
    """The keys of the cache section that belong to one gate (``cache.gate``) or one estimator (``cache.estimator``).

    A subclass has a field ``name`` of type ``Literal``, by which a user chooses it, and a field for each of its keys
    with a default and a description.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shared_keys: ClassVar[frozenset[str]] = frozenset()
    """Which of :data:`SHARED_KEYS` it looks at. A user who sets another one is told that it has no effect."""
    method_keys: ClassVar[frozenset[str]] = frozenset()
    """Its own keys whose scale is that of one method, as the interval's is. What a file says about them is left out
    when another method is chosen on the command line."""
    how_much_keys: ClassVar[frozenset[str]] = frozenset()
    """Those of :attr:`method_keys` that set how much is skipped. ``cache.quality`` is refused beside them."""
