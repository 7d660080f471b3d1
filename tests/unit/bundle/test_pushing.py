"""What is told of a push that fails. Pushes to a hub are in ``tests/integration/test_hub_bundles.py``."""

from __future__ import annotations

import pytest

from exporter.bundle.pushing import PushOptions, _Hub
from exporter.errors import HubError


def test_the_password_of_an_endpoint_is_not_told_where_a_file_cannot_be_uploaded() -> None:
    cause = OSError("400 for url 'https://me:s3cret@mirror.example/lfs/model.onnx'")
    with pytest.raises(HubError) as failure, _Hub("owner/name", PushOptions()).told():
        raise RuntimeError("Error while uploading 'model.onnx' to the Hub.") from cause
    assert failure.value.message == (
        "owner/name: the hub refuses the upload: Error while uploading 'model.onnx' to the Hub. "
        "400 for url 'https://mirror.example/lfs/model.onnx'.; nothing was committed"
    )
