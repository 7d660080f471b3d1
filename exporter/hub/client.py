"""Requests to the hub: a sound endpoint, no credentials in messages or in the log, one sentence for every failure."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from huggingface_hub import constants
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: the httpx it uses, whichever
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from exporter.errors import ExportError, HubError
from exporter.errors import first_line as first_line_of

TIMEOUT_S = 20.0
"""How long the hub may take to list a repository."""
_CREDENTIALS = re.compile(r"(?:(?<=:/)|(?<=://))[^/?#\s]*@|(?<![^\s'\"(])[^/?#\s]*:[^/?#\s]*@")
"""User name and password of a URL, as ``HF_ENDPOINT`` may have them for a mirror."""


@dataclass(frozen=True)
class Asked:
    """What is asked of the hub, and how its failures are told.

    Attributes:
        repository: The hub id.
        revision: Branch, tag or commit; None for the default branch.
        error: What is raised where the repository, its revision or a file of it is not there.
        no_id: What is raised where ``repository`` is no hub id.
        otherwise: How the user gets on without the hub, for messages.
        cached: Whether the local cache may answer.
        elsewhere: Where a repository that is not there was looked for before, for messages.
    """

    repository: str
    revision: str | None
    error: type[ExportError]
    no_id: type[ExportError]
    otherwise: str
    cached: bool = True
    elsewhere: str = ""

    @contextmanager
    def told(self) -> Iterator[None]:
        """Turn what the client raises in the block into errors of korsbert.

        Raises:
            HubError: The hub cannot be reached or broke off, and the cache does not hold what is asked for.
            ExportError: ``error`` and ``no_id``, as they say.
        """
        repository, revision = self.repository, self.revision
        try:
            yield
        except HFValidationError as error:
            raise self.no_id(
                f"{repository!r} is neither a folder here nor a hub id: {first_line(error)}",
                next_step=f"give a hub id (owner/name), or {self.otherwise}",
            ) from error
        except GatedRepoError as error:
            raise self.error(
                f"{repository}: access to this repository is restricted",
                next_step="accept its terms, then `hf auth login`",
            ) from error
        except RevisionNotFoundError as error:
            raise self.error(f"{repository}: the hub has no revision {revision!r} of it") from error
        except RepositoryNotFoundError as error:
            raise self.error(
                f"{repository}: {self.elsewhere}the hub has no such model, or it is private",
                next_step="check the spelling; for a private model, `hf auth login`",
            ) from error
        except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            if not is_offline():
                raise self._unreachable(error.__cause__ or error) from error
            raise HubError(
                f"{repository}: not in the local cache, and HF_HUB_OFFLINE is set"
                if self.cached
                else f"{repository}: HF_HUB_OFFLINE is set",
                next_step=f"unset HF_HUB_OFFLINE, or {self.otherwise}",
            ) from error
        except EntryNotFoundError as error:
            raise self.error(
                f"{repository}: the hub lists a file that it does not have: {first_line(error)}"
            ) from error
        except json.JSONDecodeError as error:
            raise HubError(
                f"{repository}: what answers at {without_credentials(constants.ENDPOINT)} is no hub: it does not "
                "answer in JSON",
                next_step="check HF_ENDPOINT, and whether a proxy answers in place of the hub",
            ) from error
        except (HTTPError, HfHubHTTPError, OSError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: BaseException) -> HubError:
        cached = ", set HF_HUB_OFFLINE=1 if it is in the cache" if self.cached else ""
        resumed = "a broken download is resumed" if self.cached else "what was uploaded is not uploaded again"
        return HubError(
            f"{self.repository}: {self.elsewhere}the hub at {without_credentials(constants.ENDPOINT)} cannot be "
            f"reached or disconnected: {first_line(error)}",
            next_step=f"try again ({resumed}){cached}, or {self.otherwise}",
        )


def prepared() -> None:
    """Get ready for requests: the log without credentials, and an endpoint that is one.

    Raises:
        HubError: ``HF_ENDPOINT`` is no URL of a server. It is not repeated: it may hold a password.
    """
    for handler in logging.getLogger("huggingface_hub").handlers:  # they write to stderr
        if _without_credentials not in handler.filters:
            handler.addFilter(_without_credentials)
    if is_offline():
        return
    try:
        url = urlsplit(constants.ENDPOINT)
        sound = url.scheme in ("http", "https") and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        sound = False
    if not sound:
        raise HubError("HF_ENDPOINT is not the URL of a hub", next_step="give it as https://HOST, or unset it")


def is_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` is set: only the cache answers then."""
    return bool(constants.is_offline_mode())


def without_credentials(text: str) -> str:
    """Return a text in which no URL has a user name or a password."""
    return _CREDENTIALS.sub("", text)


def first_line(error: BaseException) -> str:
    """Return the first line of what the hub's client says, without the credentials of its URLs."""
    return without_credentials(first_line_of(error))


def _without_credentials(record: logging.LogRecord) -> bool:
    record.msg, record.args = without_credentials(record.getMessage()), None
    return True
