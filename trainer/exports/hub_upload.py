"""Upload an exported folder to the Hugging Face hub. The library finds the user's token by itself."""

from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.errors import UserError, first_line
from data_pipelines.formatting import quoted
from trainer.networks.hub_weights import SCHEME, HubAddress, hub_library, require_model_name

OUR_LIBRARIES = (None, "timm", "torchvision")
"""Values of `library_name` in the card of a repository whose files an upload may replace."""


class Upload(NamedTuple):
    """A folder on the hub."""

    url: str
    """Page of the repository."""
    address: HubAddress
    """The repository and the commit."""


def require_target(repository: str) -> None:
    """Raise a UserError if an upload to `ORG/NAME` cannot work. Nothing is asked of the hub."""
    require_model_name(repository, where="--push")
    if hub_library().get_token() is None:
        raise UserError(
            "there is no token of the Hugging Face hub",
            where="--push",
            fix="run: hf auth login, or set HF_TOKEN to a token with write permission",
        )


def upload_folder(folder: Path, repository: str, *, private: bool) -> Upload:
    """Upload the files of a folder as one commit. The repository is created if it is missing.

    Args:
        folder: an export in the format `hf`.
        repository: `ORG/NAME`, for which `require_target` has passed.
        private: whether only members of `ORG` may read the repository.

    Raises:
        UserError: the hub cannot be reached or refuses the upload, the repository holds a model of another library,
            or it is public although `private` is set. The folder stays as it is.
    """
    library = hub_library()
    api, errors = library.HfApi(), library.errors
    try:
        _require_fitting(api, repository, private)
        url = str(api.create_repo(repository, private=private or None, exist_ok=True))
        files = sorted(path for path in folder.iterdir() if path.is_file())
        commit = api.create_commit(
            repository,
            [library.CommitOperationAdd(path.name, path) for path in files],
            commit_message="Upload a backbone with all4one",
        )
    except UserError as error:
        raise _kept(error.what, error.fix, folder, repository, private) from None
    except (errors.HTTPError, OSError, ValueError) as error:
        raise _kept(*_explained(error, repository), folder, repository, private) from None
    return Upload(url, HubAddress(repository, commit.oid))


def _require_fitting(api: Any, repository: str, private: bool) -> None:
    """Refuse a repository that exists and must not be written."""
    try:
        found = api.model_info(repository)
    except hub_library().errors.RepositoryNotFoundError:
        return
    if found.library_name not in OUR_LIBRARIES:
        raise UserError(
            f"the repository holds a model of {found.library_name}, whose files would be replaced",
            fix="choose another name",
        )
    if private and not found.private:
        raise UserError(
            "the repository exists and is public", fix="make it private on the hub, or leave --private out"
        )


def _explained(error: Exception, repository: str) -> tuple[str, str]:
    """Return what a failure of the library means, and its fix."""
    owner = repository.partition("/")[0]
    status = getattr(getattr(error, "response", None), "status_code", None)
    reason = getattr(error, "server_message", None) or " ".join(
        line.strip(" -") for line in str(error).splitlines() if line.strip()
    )
    if status == 401:
        return "the hub does not accept your token", "log in again with: hf auth login"
    if status == 403:
        return (
            f"your token may not write there ({reason})",
            f"use a token with write permission for {owner}, or another owner",
        )
    if status is not None:
        fix = "try again later" if status >= 500 or status == 429 else "solve this on the hub"
        return f"the hub refuses the upload with status {status} ({reason})", fix
    if isinstance(error, ValueError):  # of what the library checks before it uploads, such as the license
        return f"the hub refuses the export: {reason}", "change the beginning of its README.md"
    return f"the hub cannot be reached: {first_line(error)}", "use a machine with network access"


def _kept(what: str, fix: str | None, folder: Path, repository: str, private: bool) -> UserError:
    options = " --private" if private else ""
    again = f"hf upload {repository} {quoted(folder)}{options}"
    return UserError(
        f"{what.rstrip('.')}. The export is kept in {folder}",
        where=f"{SCHEME}{repository}",
        fix=f"{fix}. To upload the folder then, run: {again}",
    )
