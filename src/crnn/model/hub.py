"""Weights on the Hugging Face Hub, ``hf://OWNER/NAME[@REVISION]``: fetched into the hub's own cache by its own client.

Nothing is asked of the network unless such a name is written. ``HF_HUB_OFFLINE``, ``HF_HOME``, ``HF_ENDPOINT`` and
``HF_TOKEN`` mean what they mean to ``huggingface_hub``. A commit as revision, once fetched, asks nobody.
"""

import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

from crnn.errors import CheckpointError, ConfigError, MissingExtraError

WEIGHTS_FILE = "model.safetensors"
"""The one file of a repository that is loaded."""

_NAME = re.compile(r"hf://([A-Za-z0-9][A-Za-z0-9_.-]{0,95}/[A-Za-z0-9][A-Za-z0-9_.-]{0,95})(?:@([^@\s]+))?")
_COMMIT = re.compile("[0-9a-f]{40}")
_MAX_BYTES = 1 << 30  # thirty times the largest of our networks
_LOG_IN = "log in with: hf auth login, or set HF_TOKEN"


def is_hub_name(source: str | Path) -> bool:
    """Return true for names of weights on the hub."""
    return isinstance(source, str) and source.startswith("hf://")


def fetch(source: str) -> Path:
    """Return the weights file of a repository, from the cache if it is there, and of the revision as it is now.

    Raises:
        ConfigError: The name is not of this form.
        CheckpointError: No such repository, revision or file, no right to it, no network, or too large a file.
        MissingExtraError: ``huggingface_hub`` is not installed.
    """
    named = _NAME.fullmatch(source)
    if named is None:
        raise ConfigError(f"model {source!r:.200} is no name on the hub; expected hf://OWNER/NAME[@REVISION]")
    hub = import_hub(f"reading {source}")
    asked: dict[str, Any] = {"repo_id": named[1], "filename": WEIGHTS_FILE, "revision": named[2] or "main"}
    try:
        cached = hub.try_to_load_from_cache(**asked)
    except hub.errors.HFValidationError as error:
        raise ConfigError(f"model {source!r:.200} is no name on the hub: {str(error).splitlines()[0]}") from None
    if isinstance(cached, str) and _COMMIT.fullmatch(asked["revision"]):
        return Path(cached)
    try:  # at once, while hf_hub_download asks for half a minute where there is no network
        size = hub.get_hf_file_metadata(hub.hf_hub_url(**asked)).size
    except Exception as error:  # HTTP clients differ between its versions, and so do their exceptions
        gone = isinstance(error, hub.errors.RevisionNotFoundError | hub.errors.EntryNotFoundError)
        if isinstance(cached, str) and not gone:
            return Path(cached)
        raise explained(hub, error, source) from error
    if size is None or size > _MAX_BYTES:
        has = "hides its size" if size is None else f"has {size} bytes"
        raise CheckpointError(f"{source}: {WEIGHTS_FILE} {has}; expected at most {_MAX_BYTES}")
    try:
        return Path(hub.hf_hub_download(**asked, library_name="crnn", library_version=version("crnn")))
    except Exception as error:
        raise explained(hub, error, source) from error


def import_hub(purpose: str) -> Any:
    """Import ``huggingface_hub``, or raise ``MissingExtraError``."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub", purpose) from None
    return huggingface_hub


def explained(hub: Any, error: Exception, name: str) -> CheckpointError:
    """Return an error of the hub's client as one line that says what to do; ``name`` as the user typed it."""
    errors, status = hub.errors, getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, errors.GatedRepoError):
        why = f"is open to those alone whom its owner lets in; ask on its page, and {_LOG_IN}"
    elif isinstance(error, errors.RepositoryNotFoundError):
        why = f"no such repository, or a private one; check the name, or {_LOG_IN}"
    elif isinstance(error, errors.RevisionNotFoundError):
        why = "no such revision; expected a branch, a tag or a commit of the repository"
    elif isinstance(error, errors.OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set, and the file is not in the cache; fetch it once with a network"
    elif isinstance(error, errors.EntryNotFoundError):
        why = f"has no {WEIGHTS_FILE}; expected a repository that crnn push wrote"
    elif status in (401, 403):
        why = f"the token may not do that; {_LOG_IN}, with one that may"
    else:
        first = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]  # the cause: of an upload
        why = f"no success with {hub.constants.ENDPOINT}: {first}; check the network, or try again later"
    return CheckpointError(f"{name}: {why}")
