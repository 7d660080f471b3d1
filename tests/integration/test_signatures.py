"""Signatures of bundles: who signed, over which bytes, and what every command says where that is not so."""

from __future__ import annotations

import base64
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import model_signing
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

import exporter
from exporter.bundle import MANIFEST, Bundle, Record
from exporter.bundle.signing import SIGNATURE, Signer, Trusted
from exporter.errors import BundleError, InputError
from exporter.serving.triton import Options, ship
from exporter.serving.triton.lint import check
from tests.support.keys import certificate_of, ec_key, rsa_key
from tests.support.manifests import edit_manifest, reseal
from tests.support.process import refused, succeeded
from tests.support.warm import CLI, WarmPython


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys of a publisher and of somebody else, and certificates of both."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("publisher", "other", "root"):
        ec_key(folder, name)
    root = certificate_of(folder / "root.key", folder, "root")
    certificate_of(folder / "publisher.key", folder, "publisher", (root, folder / "root.key"))
    certificate_of(folder / "other.key", folder, "other")
    return folder


@pytest.fixture
def unsigned(twin_bundle: Path, tmp_path: Path) -> Path:
    """A copy of a sound bundle."""
    return Path(shutil.copytree(twin_bundle, tmp_path / "bundle"))


@pytest.fixture
def signed(unsigned: Path, keys: Path) -> Path:
    """The same, signed by the publisher's key."""
    Bundle.open(unsigned).sign(Signer(keys / "publisher.key"))
    return unsigned


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every connection of this process fail."""

    def refuse(*_: object) -> None:
        raise AssertionError("a signature wanted the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


class TestSigned:
    def test_it_loads_for_whoever_trusts_the_key(self, signed: Path, keys: Path) -> None:
        with exporter.load(signed, require_signature=keys / "publisher.pub") as encoder:
            assert encoder.encode("가").shape == (64,)

    def test_commands_accept_it(self, python: WarmPython, twin: Path, signed: Path, keys: Path, tmp_path: Path) -> None:
        require = ("--require-signature", keys / "publisher.pub")
        done = python.run(CLI, "verify-signature", signed, "--public-key", keys / "publisher.pub")
        assert (done.status, done.stderr) == (0, "")
        assert done.stdout == f"{signed}: signed by the public key {keys / 'publisher.pub'}, 9 files verified\n"
        done = python.run(CLI, "validate", signed, "--checkpoint", twin, *require)
        succeeded(done)
        done = python.run(CLI, "ship", signed, "--repository", tmp_path / "models", "--runtime", "python", *require)
        succeeded(done)
        (shipped,) = tmp_path.glob("models/*/1/bundle")
        assert (shipped / SIGNATURE).read_bytes() == (signed / SIGNATURE).read_bytes()
        assert python.run(CLI, "check", tmp_path / "models", *require).status == 0

    def test_the_library_that_made_it_verifies_it_too(self, signed: Path, keys: Path) -> None:
        (signed / "validation.json").write_text("{}", encoding="utf-8")  # is not part of what was signed
        verifying: Any = model_signing.verifying.Config
        config = verifying().use_elliptic_key_verifier(public_key=keys / "publisher.pub")
        config.verify(signed, signed / SIGNATURE)
        (signed / "extra").touch()
        with pytest.raises(ValueError, match="Extra files"):
            config.verify(signed, signed / SIGNATURE)

    def test_one_that_the_library_made_is_verified(self, unsigned: Path, keys: Path) -> None:
        signing: Any = model_signing.signing.Config
        config = signing().use_elliptic_key_signer(private_key=keys / "publisher.key")
        config.sign(unsigned, unsigned / SIGNATURE)
        Bundle.open(unsigned, require_signature=keys / "publisher.pub")

    def test_it_covers_the_manifest_and_every_file(self, signed: Path) -> None:
        envelope = json.loads((signed / SIGNATURE).read_text(encoding="utf-8"))["dsseEnvelope"]
        statement = json.loads(base64.b64decode(envelope["payload"]))
        names = {resource["name"] for resource in statement["predicate"]["resources"]}
        assert names == {path.name for path in signed.iterdir()} - {SIGNATURE}
        assert MANIFEST in names

    @pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()], ids=["P-384", "P-521"])
    def test_larger_curves(self, unsigned: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
        private, public = ec_key(tmp_path, "large", curve)
        Bundle.open(unsigned).sign(Signer(private)).verify_signature(public)
        Bundle.open(unsigned, require_signature=public)

    def test_a_later_record_of_validation_does_not_break_it_and_is_not_believed(self, signed: Path, keys: Path) -> None:
        opened = Bundle.open(signed)
        record = Record(manifest_seal="", report={"passed": True, "statistics": {}}, machine={}, tools={}, created="")
        recorded = opened.write_record(record)
        recorded.verify_signature(keys / "publisher.pub")
        assert Bundle.open(signed).record is not None
        assert Bundle.open(signed, require_signature=keys / "publisher.pub").record is None


def then_sealed(change: Callable[[Path], object]) -> Callable[[Path], object]:
    def changed_and_sealed(bundle: Path) -> None:
        change(bundle)
        reseal(bundle)

    return changed_and_sealed


class TestRefused:
    """Every way in which a signature is missing or wrong: the same refusal from every entrance."""

    CASES: ClassVar[dict[str, tuple[Callable[[Path], object], str]]] = {
        "unsigned": (lambda bundle: (bundle / SIGNATURE).unlink(), "not signed, and a signature by "),
        "one byte altered": (lambda bundle: flip(bundle / "model.onnx"), "model.onnx: altered since it was published"),
        "altered and sealed again": (
            then_sealed(lambda bundle: flip(bundle / "README.md")),
            "altered since it was signed",
        ),
        "manifest altered and sealed again": (
            lambda bundle: edit_manifest(bundle, lambda manifest: manifest.update(created="later")),
            "altered since it was signed",
        ),
        "another file, listed": (
            then_sealed(lambda bundle: (bundle / "extra").touch()),
            "altered since it was signed",
        ),
        "another file, not listed": (lambda bundle: (bundle / "extra").touch(), "extra: not listed in manifest.json"),
        "a file left out": (
            then_sealed(lambda bundle: (bundle / "config.json").unlink()),
            "altered since it was signed",
        ),
        "signature altered": (lambda bundle: flip(bundle / SIGNATURE), "not a signature by the public key"),
        "signature empty": (lambda bundle: (bundle / SIGNATURE).write_bytes(b""), "not a signature in the format of"),
        "signature is JSON": (lambda bundle: (bundle / SIGNATURE).write_text("[]"), "not a signature in the format of"),
    }

    @pytest.mark.parametrize("case", CASES)
    def test_what_was_done_to_the_bundle(self, signed: Path, keys: Path, case: str) -> None:
        damage, told = self.CASES[case]
        damage(signed)
        for enter in (exporter.load, exporter.validate):
            with pytest.raises(BundleError) as failure:
                enter(signed, require_signature=keys / "publisher.pub")
            assert told in failure.value.message
            assert failure.value.message.startswith(str(signed))

    @pytest.mark.parametrize("case", ["unsigned", "one byte altered", "manifest altered and sealed again"])
    def test_from_the_command_line(
        self, python: WarmPython, signed: Path, keys: Path, tmp_path: Path, case: str
    ) -> None:
        damage, told = self.CASES[case]
        damage(signed)
        require, models = ("--require-signature", keys / "publisher.pub"), tmp_path / "models"
        refused(python.run(CLI, "verify-signature", signed, "--public-key", keys / "publisher.pub"), 2, told)
        refused(python.run(CLI, "validate", signed, *require), 2, told)
        refused(python.run(CLI, "ship", signed, "--repository", models, *require), 2, told)
        assert not models.exists()

    def test_another_key(self, python: WarmPython, signed: Path, keys: Path) -> None:
        done = python.run(CLI, "verify-signature", signed, "--public-key", keys / "other.pub")
        refused(done, 2, f"{signed / SIGNATURE}: not a signature by the public key {keys / 'other.pub'}")

    def test_another_key_whose_hint_was_put_in(self, signed: Path, keys: Path) -> None:
        """Without the hint of which key it was, the signature itself must still fail."""
        content = json.loads((signed / SIGNATURE).read_text(encoding="utf-8"))
        content["verificationMaterial"]["publicKey"] = {}
        (signed / SIGNATURE).write_text(json.dumps(content), encoding="utf-8")
        with pytest.raises(BundleError, match="not a signature by the public key"):
            Bundle.open(signed, require_signature=keys / "other.pub")

    def test_another_bundles_signature(self, signed: Path, keys: Path, tmp_path: Path) -> None:
        other = Path(shutil.copytree(signed, tmp_path / "other"))
        edit_manifest(other, lambda manifest: manifest.update(created="later"))
        Bundle.open(other).sign(Signer(keys / "publisher.key"))
        shutil.copyfile(other / SIGNATURE, signed / SIGNATURE)
        with pytest.raises(BundleError, match="altered since it was signed"):
            Bundle.open(signed, require_signature=keys / "publisher.pub")

    @pytest.mark.parametrize(("runtime", "place"), [("python", "*/1/bundle"), ("engine", "twin/1")])
    def test_in_a_repository_it_is_a_finding(
        self, signed: Path, keys: Path, tmp_path: Path, runtime: Any, place: str
    ) -> None:
        ship([Bundle.open(signed)], tmp_path / "models", Options(runtime=runtime))
        (bundle,) = (tmp_path / "models").glob(place)
        assert check(tmp_path / "models", require_signature=keys / "publisher.pub") == []
        (finding,) = check(tmp_path / "models", require_signature=keys / "other.pub")
        assert (finding.file, finding.field) == (bundle, "signature")
        (bundle / SIGNATURE).unlink()
        (finding,) = check(tmp_path / "models", require_signature=keys / "publisher.pub")
        assert (finding.file, finding.field) == (bundle, "signature")


class TestCertificates:
    def signer(self, keys: Path, name: str) -> Signer:
        return Signer(keys / f"{name}.key", keys / f"{name}.crt")

    def test_whoever_trusts_the_root_accepts_it(self, python: WarmPython, unsigned: Path, keys: Path) -> None:
        done = python.run(
            *(CLI, "sign", unsigned, "--private-key", keys / "publisher.key", "--certificate", keys / "publisher.crt")
        )
        assert (done.status, done.stderr) == (0, "")
        done = python.run(CLI, "verify-signature", unsigned, "--certificate-chain", keys / "root.crt", "--json")
        assert (done.status, done.stderr) == (0, "")
        assert json.loads(done.stdout)["kind"] == "certificate chain"
        Bundle.open(unsigned, require_signature=keys / "root.crt")

    def test_whoever_trusts_another_root_does_not(self, unsigned: Path, keys: Path) -> None:
        Bundle.open(unsigned).sign(self.signer(keys, "publisher"))
        with pytest.raises(BundleError, match="not a signature by the certificate chain"):
            Bundle.open(unsigned, require_signature=keys / "other.crt")

    def test_a_signature_by_a_key_is_not_one_by_a_certificate(self, signed: Path, keys: Path) -> None:
        with pytest.raises(BundleError, match="not a signature by the certificate chain"):
            Bundle.open(signed, require_signature=keys / "root.crt")

    def test_an_altered_bundle(self, unsigned: Path, keys: Path) -> None:
        Bundle.open(unsigned).sign(self.signer(keys, "publisher"))
        edit_manifest(unsigned, lambda manifest: manifest.update(created="later"))
        with pytest.raises(BundleError, match="altered since it was signed"):
            Bundle.open(unsigned, require_signature=keys / "root.crt")


class TestWhatCannotBeUsed:
    @pytest.mark.parametrize("kind", ["missing", "public", "RSA", "with a password", "another's certificate"])
    def test_a_key_to_sign_with(self, unsigned: Path, keys: Path, tmp_path: Path, kind: str) -> None:
        signers: dict[str, Callable[[], Signer]] = {
            "missing": lambda: Signer(tmp_path / "nowhere"),
            "public": lambda: Signer(keys / "publisher.pub"),
            "RSA": lambda: Signer(rsa_key(tmp_path, "rsa")[0]),
            "with a password": lambda: Signer(ec_key(tmp_path, "locked", password=b"secret")[0]),
            "another's certificate": lambda: Signer(keys / "publisher.key", keys / "other.crt"),
        }
        with pytest.raises(InputError, match=r"cannot sign with this key: \S"):
            Bundle.open(unsigned).sign(signers[kind]())
        assert not (unsigned / SIGNATURE).exists()

    @pytest.mark.parametrize("kind", ["missing", "private", "RSA", "text"])
    def test_a_key_to_verify_with(self, signed: Path, keys: Path, tmp_path: Path, kind: str) -> None:
        (tmp_path / "text").write_text("no key")
        paths = {
            "missing": tmp_path / "nowhere",
            "private": keys / "publisher.key",
            "RSA": rsa_key(tmp_path, "rsa")[1],
            "text": tmp_path / "text",
        }
        with pytest.raises(InputError, match=r"cannot be (read|used as a public key): \S"):
            Bundle.open(signed, require_signature=paths[kind])
        with pytest.raises(InputError, match=r"cannot be used as a certificate chain: \S"):
            Bundle.open(signed, require_signature=Trusted(paths[kind], "certificate chain"))

    def test_options_of_the_commands(self, python: WarmPython, signed: Path, keys: Path) -> None:
        key = keys / "publisher.key"
        refused(python.run(CLI, "sign", signed, "--private-key", key), 2, f"{signed / SIGNATURE}: already exists")
        assert python.run(CLI, "sign", signed, "--private-key", key, "--force").status == 0
        refused(python.run(CLI, "verify-signature", signed), 2, "give one of --public-key and --certificate-chain")
        done = python.run(
            *(CLI, "sign", signed, "--private-key", key, "--certificate-chain", keys / "root.crt", "--force")
        )
        refused(done, 2, "--certificate-chain is given without --certificate")

    def test_without_the_library(self, python: WarmPython, signed: Path, keys: Path) -> None:
        blocked = "import sys; sys.modules.update({'model_signing': None, 'OpenSSL': None}); " + CLI
        done = python.run(blocked, "verify-signature", signed, "--public-key", keys / "publisher.pub")
        refused(done, 3, "model_signing is not installed", "pip install 'korsbert[sign]'")
        assert python.run(blocked, "show", signed).status == 0


def test_show_says_that_there_is_a_signature(python: WarmPython, signed: Path) -> None:
    assert "model.sig, not verified" in python.run(CLI, "show", signed).stdout
    (signed / SIGNATURE).unlink()
    assert "model.sig" not in python.run(CLI, "show", signed).stdout


def test_a_file_that_changes_after_the_signature_was_verified_is_not_used(signed: Path, keys: Path) -> None:
    opened = Bundle.open(signed, require_signature=keys / "publisher.pub", for_encoding=True)
    with opened.encoder() as encoder:
        expected = encoder.encode("같은 문장")
    opened = Bundle.open(signed, require_signature=keys / "publisher.pub", for_encoding=True)
    for name in ("model.onnx", "tokenizer.json"):
        (signed / name).write_bytes(b"something else")
    with opened.encoder() as encoder:
        assert (encoder.encode("같은 문장") == expected).all()
