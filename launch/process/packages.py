"""Which packages do not fit, for an import that failed."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, requires, version

_OURS = "lockstep-video"


def unfit_packages() -> str | None:
    """A sentence fragment on the packages that Lockstep needs and that are missing or too old; None if all fit."""
    try:
        from packaging.requirements import Requirement

        needed = [Requirement(text) for text in requires(_OURS) or ()]
    except (ImportError, PackageNotFoundError, ValueError):
        return None  # run from a checkout that was not installed, or of a broken installation
    unfit = []
    for requirement in needed:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            unfit.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            unfit.append(f"{requirement.name} is {installed}, but Lockstep needs {requirement.specifier}")
    if not unfit:
        return None
    return f"{'; '.join(unfit)}: install Lockstep again, with pip install -e . in its folder"
