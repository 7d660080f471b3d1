"""A passed validation is recorded in a bundle that was published without one, and nothing else is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exporter.bundle import MANIFEST, RECORD, Bundle
from exporter.errors import BundleError, GateError
from exporter.publication import record_validation
from exporter.validator import ParityReport
from tests.support.manifests import edit_manifest


@pytest.fixture
def pending(twin_bundle: Path, tmp_path: Path) -> Bundle:
    """A bundle that was published before its engine could run."""
    folder = Path(shutil.copytree(twin_bundle, tmp_path / "bundle"))
    edit_manifest(folder, lambda manifest: manifest["validation"].update(state="pending"))
    return Bundle.open(folder)


Reports = Callable[..., ParityReport]


@pytest.fixture
def report(pending: Bundle) -> Reports:
    """A function that returns the report of a validation of ``pending``, with some fields changed."""

    def made(**changes: Any) -> Any:
        fields = {"passed": True, "golden": None, "bundle": pending.manifest.seal, "device": "cpu", **changes}
        written = {"passed": fields["passed"], "statistics": {}}
        return SimpleNamespace(**fields, to_dict=lambda: written, failure=lambda: "twin: min cosine 0.5 < 0.9")

    return made


def test_a_pending_bundle_that_passed_is_validated(pending: Bundle, report: Reports) -> None:
    before = (pending.folder / MANIFEST).read_bytes()
    recorded = record_validation(pending, report())
    assert (pending.folder / MANIFEST).read_bytes() == before
    for found in (recorded, Bundle.open(pending.folder)):
        assert found.validated
        assert found.record is not None
        assert found.record.report == {"passed": True, "statistics": {}}
        assert found.record.machine["cores"] >= 1
        assert "korsbert" in found.record.tools
        assert found.record.created.endswith("+00:00")


def test_a_failed_report_is_refused_with_its_reason(pending: Bundle, report: Reports) -> None:
    with pytest.raises(GateError, match=r"twin: min cosine 0\.5 < 0\.9") as failure:
        record_validation(pending, report(passed=False))
    assert failure.value.report == {"passed": False, "statistics": {}}
    assert failure.value.next_step == "export it again: only a passed gate is recorded"
    assert not (pending.folder / RECORD).exists()


@pytest.mark.parametrize("seal", ["0" * 64, None])
def test_a_report_about_another_bundle_is_refused(pending: Bundle, report: Reports, seal: str | None) -> None:
    with pytest.raises(BundleError, match="bundle: the report is about another bundle") as failure:
        record_validation(pending, report(bundle=seal))
    assert failure.value.next_step == "validate this one"
    assert not (pending.folder / RECORD).exists()


@pytest.mark.parametrize("device", ["cuda", None])
def test_a_report_about_another_device_is_refused(pending: Bundle, report: Reports, device: str | None) -> None:
    with pytest.raises(BundleError, match=f"made for cpu, so a validation on {device} is not recorded") as failure:
        record_validation(pending, report(device=device))
    assert failure.value.next_step == "validate it with `device=cpu`"
    assert not (pending.folder / RECORD).exists()


def test_a_bundle_that_is_not_pending_needs_no_record(twin_bundle: Path, report: Reports) -> None:
    published = Bundle.open(twin_bundle)
    with pytest.raises(BundleError, match="validated before it was published, so there is nothing to record"):
        record_validation(published, report(bundle=published.manifest.seal))
    assert not (twin_bundle / RECORD).exists()
