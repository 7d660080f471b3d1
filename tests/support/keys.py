"""Keys and certificates, made for a test."""

from __future__ import annotations

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

__all__ = ["certificate_of", "ec_key", "rsa_key"]

_PEM = serialization.Encoding.PEM
_PKCS8 = serialization.PrivateFormat.PKCS8
_PUBLIC = serialization.PublicFormat.SubjectPublicKeyInfo
_DAY = datetime.timedelta(days=1)


def ec_key(
    folder: Path, name: str, curve: ec.EllipticCurve | None = None, password: bytes | None = None
) -> tuple[Path, Path]:
    """Write a private and a public key of an elliptic curve, P-256 by default; returns both files."""
    return _write(ec.generate_private_key(curve or ec.SECP256R1()), folder, name, password)


def rsa_key(folder: Path, name: str) -> tuple[Path, Path]:
    """Write an RSA key, which is no key of an elliptic curve; returns both files."""
    return _write(rsa.generate_private_key(65537, 2048), folder, name, None)


def certificate_of(private_key: Path, folder: Path, name: str, issuer: tuple[Path, Path] | None = None) -> Path:
    """Write a certificate of a key, which may sign files; returns its file.

    Args:
        private_key: The key.
        folder: Where to write.
        name: Of the file and of the subject.
        issuer: Certificate and private key of who issues it; by default it is a root that issues itself.
    """
    key = _read_key(private_key)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    by, by_key = (subject, key) if issuer is None else (_read_certificate(issuer[0]).subject, _read_key(issuer[1]))
    now = datetime.datetime.now(datetime.UTC)
    usage = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - (_DAY if issuer else 2 * _DAY))
        .not_valid_after(now + _DAY)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=issuer is None,
                crl_sign=issuer is None,
                decipher_only=False,
                **usage,
            ),
            critical=True,
        )
        .sign(by_key, hashes.SHA256())
    )
    path = folder / f"{name}.crt"
    path.write_bytes(made.public_bytes(_PEM))
    return path


def _write(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, folder: Path, name: str, password: bytes | None
) -> tuple[Path, Path]:
    how = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(_PEM, _PKCS8, how))
    public.write_bytes(key.public_key().public_bytes(_PEM, _PUBLIC))
    return private, public


def _read_key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key


def _read_certificate(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())
