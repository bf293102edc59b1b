"""Models that are named by their id on the Hugging Face hub: found in the hub's local cache, or downloaded."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from engine.config import HUB_ID, Config
from engine.errors import InvalidInput, MachineUnfit
from engine.models.facts import family_of
from engine.models.folder import read_json
from engine.models.sums import SUMS

AnyConfig = TypeVar("AnyConfig", bound=Config)

_INDEX = "model_index.json"
_SETTINGS = ("*.json", "*.txt", "*.model", "*.jinja")
_WEIGHTS = "*.safetensors"
_VARIANTS = ("*.fp16.*", "*.bf16.*", "*.non_ema.*")  # other copies of the same weights


def resolve_model(config: AnyConfig, announce: Callable[[str], None], download: bool = True) -> AnyConfig:
    """The configuration with the model's local folder as its path. The hub is not asked for files that its cache holds.

    If several processes of a machine call this at the same time, one downloads and the others wait.

    Args:
        announce: called with one line when a download begins.
        download: whether a download is allowed; else the cache has to have the model.

    Raises:
        InvalidInput: the id is unknown, Lockstep does not run the model, access is refused, or the hub cannot be
            reached; one sentence.
    """
    path = config.model.path
    parsed = HUB_ID.fullmatch(path)
    if parsed is None or Path(path).exists():
        return config
    from huggingface_hub import constants  # half a second, only for those who need it
    from huggingface_hub.errors import LocalEntryNotFoundError
    from huggingface_hub.utils import WeakFileLock

    repository, revision = parsed["repository"], parsed["revision"]
    find = _Finder(path, repository, revision, config.model.single_files)
    try:
        return _with_path(config, find(local=True))
    except LocalEntryNotFoundError:
        if not download:
            raise MachineUnfit(
                f"model.path is {path!r}, which is neither a folder nor in the hub's cache on this machine: "
                "download it first, or correct it."
            ) from None
    try:
        lock = Path(constants.HF_HUB_CACHE, ".locks", f"lockstep--{repository.replace('/', '--')}.lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):
            try:
                folder = find(local=True)  # another process has downloaded it meanwhile
            except LocalEntryNotFoundError:
                announce(f"looking for {path} on the hub; what is not in {constants.HF_HUB_CACHE} is downloaded")
                folder = find(local=False)
    except InvalidInput:
        raise
    except Exception as error:  # the network raises errors of many classes
        raise MachineUnfit(_complaint(path, error)) from None
    return _with_path(config, folder)


class _Finder:
    """Finds one model in the hub's cache, or downloads it."""

    def __init__(self, path: str, repository: str, revision: str | None, elsewhere: Collection[str]) -> None:
        """
        Args:
            elsewhere: components whose weights are not needed.
        """
        self._path = path
        self._repository = repository
        self._revision = revision
        self._elsewhere = elsewhere

    def __call__(self, local: bool) -> str:
        """The folder of a snapshot that holds all needed files.

        Args:
            local: search the cache alone.

        Raises:
            InvalidInput: Lockstep does not run the model; raised before its weights are downloaded.
            huggingface_hub.errors.LocalEntryNotFoundError: the cache lacks some of it (``local``).
        """
        from huggingface_hub.errors import LocalEntryNotFoundError

        index_file = Path(self._snapshot([_INDEX], local), _INDEX)
        if not index_file.is_file():
            if local:
                raise LocalEntryNotFoundError(f"{index_file} is not there")
            raise InvalidInput(
                f"model.path is {self._path!r}, which has no {_INDEX} on the hub and so is not in the diffusers "
                "layout: use another."
            )
        index = read_json(index_file)
        family_of(index, self._path)
        patterns, with_weights = [_INDEX, SUMS], []
        for component, entry in index.items():
            if isinstance(entry, list) and all(entry):  # a pair of nulls stands for a component that is left out
                patterns += [f"{component}/{pattern}" for pattern in _SETTINGS]
                with_weights += [component] if component not in self._elsewhere else []
        folder = self._snapshot([*patterns, *(f"{component}/{_WEIGHTS}" for component in with_weights)], local)
        # some are published as variants alone
        bare = [
            component
            for component in with_weights
            if Path(folder, component, "config.json").is_file() and not any(Path(folder, component).glob(_WEIGHTS))
        ]
        if bare and not local:
            self._snapshot([f"{component}/{_WEIGHTS}" for component in bare], local, ignored=())
        return folder

    def _snapshot(self, patterns: list[str], local: bool, ignored: tuple[str, ...] = _VARIANTS) -> str:
        from huggingface_hub import snapshot_download

        return snapshot_download(
            self._repository,
            revision=self._revision,
            allow_patterns=patterns,
            ignore_patterns=list(ignored),
            local_files_only=local,
        )


def _with_path(config: AnyConfig, folder: str) -> AnyConfig:
    return config.model_copy(update={"model": config.model.model_copy(update={"path": folder})})


def _complaint(path: str, error: Exception) -> str:
    from huggingface_hub import errors

    named = f"model.path is {path!r}, which is no folder here"
    match error:
        case errors.GatedRepoError():
            return f"{named}, and gated on the hub: accept its terms there, then log in with hf auth login."
        case errors.RevisionNotFoundError():
            return f"{named}, and has no such revision on the hub: correct what follows the @."
        case errors.RepositoryNotFoundError():
            return f"{named}, and unknown on the hub: correct it, or log in with hf auth login if it is private."
        case errors.LocalEntryNotFoundError() if not isinstance(error.__cause__, errors.HfHubHTTPError):
            return (
                f"{named} and not in the hub's cache, and the hub cannot be reached: check the network, or download "
                "the model to a folder and name that."
            )
    answered = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    reason = " ".join(f"{type(answered).__name__}: {answered}".split())[:200]
    return f"{named}, and could not be downloaded from the hub ({reason}): try again, or download it to a folder."
