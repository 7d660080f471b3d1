"""NVIDIA's images of Triton: the ONNX Runtime of each, and which one serves a bundle."""

from __future__ import annotations

from pathlib import Path

import pytest

from exporter.errors import InputError
from exporter.serving.triton import Options, ship
from exporter.serving.triton.images import ONNXRUNTIME, Image, image_for, oldest_release, release_in
from tests.support.served_bundles import bundle_of

OPSET_20, BY_MASK, BY_LENGTHS = {"bundle": "1.17"}, {"bundle": "1.23"}, {"bundle": "1.25"}


def test_the_onnxruntime_of_each_image() -> None:
    """As their ``build.py`` names it; a range of the list is written out, so that no release is left out by mistake."""
    assert {
        "24.11": "1.19.2",
        **dict.fromkeys(("24.12", "25.01", "25.02"), "1.20.1"),
        **dict.fromkeys(("25.03", "25.04"), "1.21.0"),
        **dict.fromkeys(("25.05", "25.06", "25.07"), "1.22.0"),
        "25.09": "1.23.0",
        "25.10": "1.23.1",
        **dict.fromkeys(("25.11", "25.12", "26.01"), "1.23.2"),
        "26.02": "1.24.1",
        "26.03": "1.24.2",
        **dict.fromkeys(("26.04", "26.05", "26.06"), "1.24.4"),
        "26.07": "1.27.0",
        "26.08": "1.28.0",
    } == ONNXRUNTIME
    assert list(ONNXRUNTIME) == sorted(ONNXRUNTIME)


def test_the_guide_has_the_same_table() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "triton.md").read_text(encoding="utf-8")
    for version in set(ONNXRUNTIME.values()):
        releases = [release for release, has in ONNXRUNTIME.items() if has == version]
        named = releases[0] if len(releases) == 1 else f"{releases[0]} to {releases[-1]}"
        assert f"| {named} | {version} |" in guide


def test_images_outside_of_the_table() -> None:
    assert Image("24.10").onnxruntime is None
    assert not Image("24.10").has_onnxruntime("1.12")
    assert Image("25.08").onnxruntime == "1.22.0"
    assert Image("27.01").onnxruntime == "1.28.0"
    assert Image("27.01").has_onnxruntime("1.25")


@pytest.mark.parametrize(
    ("needs", "release"), [({}, "25.12"), (OPSET_20, "25.12"), (BY_MASK, "25.12"), (BY_LENGTHS, "26.07")]
)
def test_an_image_is_chosen_that_is_new_enough(needs: dict[str, str], release: str) -> None:
    assert image_for(needs, None) == Image(release)


@pytest.mark.parametrize(
    ("release", "needs", "has"),
    [
        ("25.12", BY_LENGTHS, "ONNX Runtime 1.23.2"),
        ("26.06", BY_LENGTHS, "ONNX Runtime 1.24.4"),
        ("25.08", BY_MASK, "ONNX Runtime 1.22.0"),
        ("24.11", {"bundle": "1.21"}, "ONNX Runtime 1.19.2"),
    ],
)
def test_an_image_that_is_too_old_is_refused(release: str, needs: dict[str, str], has: str) -> None:
    oldest = oldest_release(needs["bundle"])
    wanted = f"bundle needs ONNX Runtime {needs['bundle']} or newer, and Triton's image {release} has {has}"
    with pytest.raises(InputError) as caught:
        image_for(needs, release)
    assert caught.value.message == wanted
    assert caught.value.next_step == f"use `image_version={oldest}` or newer, or `runtime=python`"
    assert image_for(needs, oldest) == Image(oldest)
    assert image_for({}, release) == Image(release)


def test_an_older_opset_runs_on_an_older_image() -> None:
    assert image_for(OPSET_20, "24.11") == Image("24.11")
    assert oldest_release("1.12") == "24.11"


def test_an_image_whose_python_is_too_old_is_refused() -> None:
    with pytest.raises(InputError, match=r"image 24\.10 has Python 3\.10 or older, and korsbert needs 3\.11"):
        image_for({}, "24.10")


def test_an_image_may_be_pinned() -> None:
    digest = "sha256:" + "0123456789abcdef" * 4
    image = Image.parse(f"26.07@{digest}")
    assert image == Image("26.07", digest)
    assert image.reference == f"nvcr.io/nvidia/tritonserver:26.07-py3@{digest}"
    assert Image.parse("26.07").reference == "nvcr.io/nvidia/tritonserver:26.07-py3"


@pytest.mark.parametrize(
    "version", ["", "26", "26.7", "25.13", "26.00", "latest", "26.07-py3", "26.07@sha256:12", "26.07\nRUN x", "26.07@"]
)
def test_what_is_no_image_is_refused(version: str) -> None:
    with pytest.raises(InputError, match=r"`image_version` .*: not a release of Triton's image"):
        image_for({}, version)


def test_the_image_of_a_dockerfile() -> None:
    assert release_in("# comment\nARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.07-py3@sha256:00\n") == "26.07"
    assert release_in("FROM ubuntu:24.04\n") is None


def test_ship_refuses_an_image_before_it_writes(tmp_path: Path) -> None:
    bundle = bundle_of("onnxruntime", "fp16", "cuda", padding="right")
    with pytest.raises(
        InputError, match=r"onnxruntime needs ONNX Runtime 1\.25 or newer, and Triton's image 25\.12 has"
    ):
        ship([bundle], tmp_path / "models", Options(), image_version="25.12")
    assert list(tmp_path.iterdir()) == []
