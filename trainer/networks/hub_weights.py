"""Weights on the Hugging Face hub, named as `hf://ORG/NAME` or `hf://ORG/NAME@REVISION`.

The library `huggingface_hub` downloads them into its own cache and finds the user's token by itself. Only tensors are
read, and no code of a repository runs.
"""

from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.errors import UserError, first_line

SCHEME = "hf://"
FILES = ("model.safetensors", "pytorch_model.bin")
"""Names of files of weights in a repository, the preferred one first."""


class HubAddress(NamedTuple):
    """A repository of a model."""

    repository: str
    """`ORG/NAME`."""
    revision: str | None = None
    """A branch, a tag or a commit. None: the newest commit of the main branch."""

    def __str__(self) -> str:
        return f"{SCHEME}{self.repository}" + (f"@{self.revision}" if self.revision else "")

    @property
    def name(self) -> str:
        """`NAME`, without its owner."""
        return self.repository.partition("/")[2]


class HubWeights(NamedTuple):
    """Weights of a repository on this machine."""

    file: Path
    """The file in the cache of the library."""
    address: HubAddress
    """Where it comes from. The revision is a commit."""


def hub_address(place: str | Path) -> HubAddress | None:
    """Return the repository that a text names. None: it does not begin with `hf://`.

    A path is accepted too, although `pathlib` turns `hf://ORG/NAME` into `hf:/ORG/NAME`.

    Raises:
        UserError: it begins with `hf://` but names no repository of a model.
    """
    kind, mark, rest = str(place).partition(":/")
    if kind != "hf" or not mark:
        return None
    repository, at, revision = rest.removeprefix("/").partition("@")
    address = HubAddress(repository, revision or None)
    if at and not revision:
        raise UserError("the revision after @ is empty", where=str(address), fix="leave the @ out")
    require_model_name(repository, where=str(address))
    return address


def require_model_name(repository: str, *, where: str) -> None:
    """Raise a UserError if a text is not the name `ORG/NAME` of a model's repository."""
    fix = "give ORG/NAME, such as my-lab/resnet50-all4one"
    first, _, rest = repository.partition("/")
    if first in ("datasets", "spaces") and rest:
        raise UserError(f"is one of the hub's {first}, not a model", where=where, fix=fix)
    library = hub_library()
    try:
        if repository.count("/") != 1:
            raise UserError(f"{repository!r} is not the name of a repository", where=where, fix=fix)
        library.utils.validate_repo_id(repository)
    except library.errors.HFValidationError as error:
        raise UserError(
            f"is not the name of a repository: {first_line(error)}", where=where, fix=fix
        ) from None


def hub_library() -> Any:
    """Return the module `huggingface_hub`. Raise a UserError if it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise UserError(
            "the Hugging Face hub needs huggingface-hub, which is not installed",
            where=SCHEME,
            fix="run: pip install 'all4one[hub]'",
        ) from error
    return huggingface_hub


def local_weights(place: str | Path) -> tuple[Path, str]:
    """Return a file of weights on this machine, and its name for messages. Weights on the hub are downloaded.

    Args:
        place: a path, or the address of a repository. The name of a repository's weights includes their commit.

    Raises:
        UserError: as for `hub_address` and `download_weights`.
    """
    address = hub_address(place)
    if address is None:
        return Path(place), str(place)
    found = download_weights(address)
    return found.file, str(found.address)


def download_weights(address: HubAddress) -> HubWeights:
    """Return the weights of a repository. They are downloaded unless the cache of the library has them.

    Processes of a node may call this at the same time: the library locks a file while it downloads it. Without a
    network, the newest revision in the cache is used. A commit that is in the cache needs no network.

    Raises:
        UserError: there is no such repository or revision, it has no weights, the user may not read it, or it is
            neither in the cache nor reachable.
    """
    library = hub_library()
    errors = library.errors
    unreachable: Exception | None = None
    for name in FILES:
        try:
            file = library.hf_hub_download(
                address.repository,
                name,
                revision=address.revision,
                local_files_only=unreachable is not None,  # one wait for the network is enough
            )
            return HubWeights(Path(file), address._replace(revision=Path(file).parent.name))
        except errors.LocalEntryNotFoundError as error:  # no network; the cache may have the next file
            unreachable = unreachable or error
        except errors.EntryNotFoundError:
            continue
        except errors.GatedRepoError:
            raise _refused(
                "access to this repository must be granted first", address, "ask for access on its page"
            ) from None
        except errors.RepositoryNotFoundError:
            raise _refused(
                "there is no such model on the hub, or it is private and your token may not read it",
                address,
                "check the name, or log in with an account that may read it: hf auth login",
            ) from None
        except errors.RevisionNotFoundError:
            raise _refused(
                "the repository has no such revision",
                address,
                "give a branch, a tag or a full commit after @",
            ) from None
        except (errors.HTTPError, OSError) as error:
            raise _refused(
                f"cannot be downloaded: {first_line(error)}",
                address,
                "check the disk of HF_HOME, and try again",
            ) from None
    if unreachable is not None:
        raise _not_cached(address, unreachable)
    raise _refused(f"has no file {' or '.join(FILES)}", address, "name a repository with one of these files")


def _not_cached(address: HubAddress, error: Exception) -> UserError:
    revision = f" --revision {address.revision}" if address.revision else ""
    reason = first_line(error.__cause__ or error)
    return UserError(
        f"is not in the cache of this machine, and the hub cannot be reached ({reason})",
        where=str(address),
        fix=f"on a machine with network access and the same HF_HOME, run: hf download {address.repository} "
        f"{FILES[0]}{revision}",
    )


def _refused(what: str, address: HubAddress, fix: str) -> UserError:
    return UserError(what, where=str(address), fix=fix)
