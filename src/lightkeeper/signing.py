"""Signatures that anybody with the public key can check, with Lightkeeper or with `openssl dgst -sha256 -verify`.

ECDSA on the curve P-256 of a file's SHA-256, in DER. The key pair lies in the home, below keys/: the private one is
readable by its owner only, and it is made when it is first needed.
"""

import os
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from lightkeeper.domain.errors import Corrupt, Invalid, NotFound

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

KEYS = "keys"
PRIVATE, PUBLIC = "receipts.pem", "receipts.public.pem"


def digest_of(file: BinaryIO) -> bytes:
    """SHA-256 of what is left to read of a file."""
    hashed = sha256()
    while chunk := file.read(1 << 20):
        hashed.update(chunk)
    return hashed.digest()


def sign(home: Path, digest: bytes) -> bytes:
    """The signature of a SHA-256 by the key of this home."""
    ec, hashes, utils, _, _ = _library()
    return _private_key(home).sign(digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))


def public_key(home: Path) -> str:
    """The public key of this home, as PEM text."""
    _, _, _, serialization, _ = _library()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return _private_key(home).public_key().public_bytes(serialization.Encoding.PEM, form).decode()


def fingerprint(pem: str) -> str:
    """What tells one public key from another: the sha256 of its DER form."""
    _, _, _, serialization, _ = _library()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return sha256(_read_public(pem).public_bytes(serialization.Encoding.DER, form)).hexdigest()


def verify(pem: str, digest: bytes, signature: bytes) -> None:
    """Raises Corrupt unless `signature` is one of this SHA-256 by the key whose public half is given."""
    ec, hashes, utils, _, wrong = _library()
    try:
        _read_public(pem).verify(signature, digest, ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    except wrong:
        raise Corrupt(
            "the signature is not one of this file by this key",
            hint="the file was changed, or the signature or the key belongs to another one",
        ) from None


def _library():  # noqa: ANN202  # modules
    """What signs; needed only here, and not everywhere installed."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec, utils
    except ImportError as error:
        raise NotFound("what signs receipts is not installed", hint="pip install 'lightkeeper[sign]'") from error
    return ec, hashes, utils, serialization, InvalidSignature


def _private_key(home: Path) -> "EllipticCurvePrivateKey":
    ec, _, _, serialization, _ = _library()
    path = home / KEYS / PRIVATE
    if not path.exists():
        _make_keys(home)
    key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise Invalid(f"{path} is no key on an elliptic curve", hint="put it away: another one is made")
    return key


def _make_keys(home: Path) -> None:
    ec, _, _, serialization, _ = _library()
    folder = home / KEYS
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    public = key.public_key().public_bytes(serialization.Encoding.PEM, form)
    temporary = folder / f"{PRIVATE}.{os.getpid()}.new"
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(private)
        file.flush()
        os.fsync(file.fileno())
    try:
        (folder / PRIVATE).hardlink_to(temporary)
    except FileExistsError:  # somebody was faster: his is the key
        return
    finally:
        temporary.unlink()
    (folder / PUBLIC).write_bytes(public)


def _read_public(pem: str) -> "EllipticCurvePublicKey":
    ec, _, _, serialization, _ = _library()
    try:
        key = serialization.load_pem_public_key(pem.encode())
    except ValueError as error:
        raise Invalid("this is no public key in PEM form", hint="lightkeeper night key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise Invalid("this is no public key on an elliptic curve", hint="lightkeeper night key")
    return key
