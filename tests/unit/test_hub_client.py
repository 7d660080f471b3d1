"""What the hub's client raises, in one sentence each."""

from __future__ import annotations

import json

import pytest

from exporter.errors import BundleError, HubError
from exporter.hub.client import Asked

ASKED = Asked("owner/name", None, BundleError, BundleError, "give a folder", elsewhere="there is no such folder, and ")


def test_what_answers_a_page_of_html_is_no_hub() -> None:
    with pytest.raises(HubError, match=r"owner/name: what answers at .* is no hub") as failure, ASKED.told():
        json.loads("<html>welcome to nginx</html>")
    assert failure.value.next_step == "check HF_ENDPOINT, and whether a proxy answers in place of the hub"
    assert failure.value.exit_code == 3


def test_a_hub_that_cannot_be_reached_is_told_beside_the_folder_that_is_not_there() -> None:
    told = r"owner/name: there is no such folder, and the hub at .* cannot be reached"
    with pytest.raises(HubError, match=told), ASKED.told():
        raise ConnectionError("no route")
