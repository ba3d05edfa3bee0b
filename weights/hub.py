"""Checkpoints by name: a directory, or a repository of the Hugging Face hub in its cache or fetched into it. No torch.

Only what serving needs is fetched (safetensors, JSON, templates, of the top folder): never a pickle, never code.
"""

from __future__ import annotations

import shutil
from fnmatch import fnmatchcase
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .checkpoint import INDEX, PICKLES, SINGLE
from .errors import CheckpointError
from .safetensors_file import NOT_PICKLE
from .strict_json import read_json

WANTED = ("*.safetensors", "*.json", "*.jinja", "*.model", "LICENSE*")
HTTP_LIBRARIES = ("requests", "urllib3", "httpx", "httpx2", "httpcore", "httpcore2")
UNWANTED = ("*/*",)  # a hub repository may hold the same weights again in folders, for other programs


def resolve(
    model: str,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    local_only: bool = False,
    endpoint: str | None = None,
) -> Path:
    """The directory of `model`: itself, or the hub repository's snapshot, fetched unless complete or `local_only`.

    A complete snapshot is used as it is, without asking the network. Raises CheckpointError.
    """
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise CheckpointError(model, "is a file", mend="name the directory that holds the checkpoint")
    if model.startswith((".", "~", "/")) or model.count("/") != 1 or model.endswith("/"):
        raise CheckpointError(model, "is no directory", mend="name a checkpoint directory, or OWNER/NAME on the hub")
    snapshot = cached(model, revision=revision, cache_dir=cache_dir)
    if snapshot is not None:
        return snapshot
    if local_only:
        raise CheckpointError(model, "is not in the cache, or not wholly", mend=f"run `yardmaster download {model}`")
    return download(model, revision=revision, cache_dir=cache_dir, endpoint=endpoint)


def cached(repo_id: str, *, revision: str | None = None, cache_dir: Path | None = None) -> Path | None:
    """The complete snapshot of a repository in the cache, or None. Never asks the network."""
    try:
        found = snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=True,
            allow_patterns=list(WANTED),
            ignore_patterns=list(UNWANTED),
        )
    except (LocalEntryNotFoundError, FileNotFoundError):
        return None
    except HFValidationError:
        raise CheckpointError(repo_id, "is no repository name", mend="write it as OWNER/NAME") from None
    path = Path(found)
    if not (path / "config.json").exists():
        return None
    if (path / INDEX).exists():
        shards = read_json(path / INDEX).get("weight_map")
        names = set(shards.values()) if isinstance(shards, dict) else set()
        return path if all(isinstance(name, str) and (path / name).exists() for name in names) else None
    return path if (path / SINGLE).exists() else None


def download(
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir: Path | None = None,
    local_dir: Path | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> Path:
    """Fetch a repository into the cache (or into `local_dir`) and return its directory; shows progress bars.

    What an earlier, interrupted call fetched is not fetched again. Before anything is fetched the repository must
    hold safetensors and the disk must have room. Raises CheckpointError: not found, gated, offline, no room.
    """
    where = Path(local_dir or cache_dir or constants.HF_HUB_CACHE)
    try:
        api = HfApi(endpoint=endpoint, token=token)
        info = api.model_info(repo_id, revision=revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or ()}
        _check_holds_weights(repo_id, sizes)
        missing = 0
        for name, size in sizes.items():
            if _wanted(name) and not _is_there(repo_id, name, size, info.sha, cache_dir, local_dir):
                missing += size
        _check_room(where, missing)
        path = snapshot_download(
            repo_id,
            revision=revision,
            cache_dir=cache_dir,
            local_dir=local_dir,
            token=token,
            endpoint=endpoint,
            allow_patterns=list(WANTED),
            ignore_patterns=list(UNWANTED),
        )
    except HFValidationError:
        raise CheckpointError(repo_id, "is no repository name", mend="write it as OWNER/NAME") from None
    except GatedRepoError:
        mend = "accept its terms on the hub, then set HF_TOKEN or run `hf auth login`"
        raise CheckpointError(repo_id, "is gated", mend=mend) from None
    except RevisionNotFoundError:
        raise CheckpointError(repo_id, f"has no revision {revision!r}", mend="check the branch or commit") from None
    except RepositoryNotFoundError:
        mend = "check the spelling, or set HF_TOKEN if it is private"
        raise CheckpointError(repo_id, "is not on the hub, or not for you", mend=mend) from None
    except HfHubHTTPError as e:
        status = e.response.status_code if e.response is not None else "an error"
        raise CheckpointError(repo_id, f"the hub answered {status}", mend="try again later") from None
    except Exception as e:
        # Which HTTP library raises here, and from which base class, differs between releases of huggingface_hub.
        network = type(e).__module__.partition(".")[0] in HTTP_LIBRARIES or isinstance(e, ConnectionError)
        if network or isinstance(e, (OfflineModeIsEnabled, LocalEntryNotFoundError)):
            mend = "check the network and HF_HUB_OFFLINE, or name a local directory"
            raise CheckpointError(repo_id, f"the hub cannot be reached ({type(e).__name__})", mend=mend) from None
        if not isinstance(e, OSError):
            raise
        raise CheckpointError(repo_id, e.strerror or str(e), mend=f"check {where} and its disk") from None
    return Path(path)


def _wanted(name: str) -> bool:
    return any(fnmatchcase(name, p) for p in WANTED) and not any(fnmatchcase(name, p) for p in UNWANTED)


def _check_holds_weights(repo_id: str, sizes: dict[str, int]) -> None:
    if any(_wanted(name) and name.endswith(".safetensors") for name in sizes):
        return
    if any(name.endswith(PICKLES) for name in sizes):
        raise CheckpointError(repo_id, "has its weights as pickle only", mend=NOT_PICKLE)
    raise CheckpointError(repo_id, "holds no safetensors", mend="choose a repository with the model's weights")


def _is_there(
    repo_id: str, name: str, size: int, sha: str | None, cache_dir: Path | None, local_dir: Path | None
) -> bool:
    if local_dir is not None:
        path = local_dir / name
        return path.is_file() and path.stat().st_size == size
    return isinstance(try_to_load_from_cache(repo_id, name, cache_dir=cache_dir, revision=sha), str)


def _check_room(where: Path, missing: int) -> None:
    existing = next(path for path in (where.absolute(), *where.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if missing > free:
        fact = f"{missing / 1e9:.1f} GB are to be fetched and {free / 1e9:.1f} GB are free"
        raise CheckpointError(existing, fact, mend="free space, or set HF_HOME to another disk")
