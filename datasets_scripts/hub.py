"""Publish a folder on the Hugging Face Hub, as a model, a dataset or a Space."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)


class HubError(RuntimeError):
    """A publication that did not happen; the message says why and what to do."""


def push(
    folder: Path,
    name: str,
    kind: str,
    marker: str,
    message: str,
    private: bool = True,
    api: HfApi | None = None,
) -> str:
    """Upload ``folder`` as the repository ``name`` ("owner/name"); returns its address.

    ``kind`` is "model", "dataset" or "space". A repository that is there is updated only where it
    holds the file ``marker``, or nothing yet (an upload that was cut off): another project is not
    overwritten. The same call again continues an upload that was cut off. A new repository is
    private unless ``private`` is False; the visibility of an old one stays as it is.

    Raises:
        HubError: no token or a wrong one, a name that is taken, no connection, or one that was
            cut.
    """
    if name.count("/") != 1 or not all(name.split("/")):
        raise HubError(f"the name is {name!r}; expected owner/name, as in alice/feelprint")
    api = api or HfApi()
    sdk = {"space_sdk": "gradio"} if kind == "space" else {}
    try:
        try:
            url = api.create_repo(name, repo_type=kind, private=private, **sdk)  # type: ignore[arg-type]
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
            files = set(api.list_repo_files(name, repo_type=kind)) - {".gitattributes", "README.md"}
            if files and marker not in files:
                raise HubError(
                    f"{name} exists and is another {kind} (it has no {marker}); nothing was sent: "
                    "choose another name"
                ) from None
            url = f"{api.endpoint}/{'' if kind == 'model' else kind + 's/'}{name}"  # type: ignore[assignment]
        api.upload_folder(folder_path=folder, repo_id=name, repo_type=kind, commit_message=message)
    except HfHubHTTPError as error:
        raise HubError(_refusal(error, name)) from None
    except LocalTokenNotFoundError:
        raise HubError("no token of the Hub: run `hf auth login`, or set HF_TOKEN") from None
    except OfflineModeIsEnabled:
        raise HubError("HF_HUB_OFFLINE is set, so nothing can be published") from None
    except (HTTPError, ConnectionError, TimeoutError, RuntimeError) as error:
        if isinstance(error, HubError):
            raise
        cause = error.__cause__ if type(error) is RuntimeError else error  # of one file's upload
        if isinstance(cause, HfHubHTTPError):
            raise HubError(_refusal(cause, name)) from None
        if not isinstance(cause, HTTPError | ConnectionError | TimeoutError):
            raise
        raise HubError(
            f"the connection to {api.endpoint} failed ({type(cause).__name__}: {cause}); "
            "run the same command again to resume"
        ) from None
    return str(url)


def _refusal(error: HfHubHTTPError, name: str) -> str:
    status = error.response.status_code
    if status == 401:
        return (
            "the Hub does not know the token: run `hf auth login`, or set HF_TOKEN to a valid one"
        )
    if status == 403:
        return f"the token may not write to {name}: make one with write access to its owner"
    said = str(error).strip().splitlines()
    return f"the Hub refused {name} with status {status}: {said[-1] if said else 'no reason'}"
