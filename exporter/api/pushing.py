"""Push a bundle to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporter.bundle import Bundle
from exporter.bundle.minimum_gate import minimum_gate_of
from exporter.recipe import Gates, Recipe

if TYPE_CHECKING:
    from exporter.bundle.pushing import Pushed


def push(
    bundle: str | Path | Bundle,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str | None = None,
    create_pr: bool = False,
    unvalidated: bool = False,
    gates: Gates | Recipe | str | Path | None = None,
    dry_run: bool = False,
) -> Pushed:
    """Push a bundle to the Hugging Face hub, in one commit, with its record of validation and its signature.

    The token is that of ``HF_TOKEN`` or of ``hf auth login``. A repository that is missing is created. Files of the
    bundle that is there are removed in the same commit.

    Args:
        bundle: A bundle or its folder.
        repository: Its id on the hub, ``owner/name``.
        private: Create the repository as a private one. One that is there and public is refused.
        revision: The branch, which is created where it is missing; by default ``main``.
        message: The commit message.
        create_pr: Open a pull request instead.
        unvalidated: Push a bundle whose engine no machine has validated.
        gates: The least that the bundle must have reached, as in ``validate``.
        dry_run: Only return the names and the sizes of the files. No request is made.

    Raises:
        BundleError: The bundle was altered, was not validated or misses the gate; or the repository holds something
            else than a bundle, or is public and ``private`` is asked for.
        InputError: ``repository`` is no hub id, or two arguments exclude each other.
        HubError: There is no token, or the hub cannot be reached or refuses. The message says what is there then.
    """
    from exporter.bundle.pushing import PushOptions  # noqa: PLC0415 - imports huggingface_hub
    from exporter.bundle.pushing import push as push_bundle  # noqa: PLC0415

    opened = bundle if isinstance(bundle, Bundle) else Bundle.open(Path(bundle))
    options = PushOptions(private, revision, message, create_pr, unvalidated, dry_run)
    return push_bundle(opened, repository, options, minimum_gate_of(gates))
