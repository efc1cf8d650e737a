"""Signed images: Glance checks the signature over the bytes as they pass."""

import base64
import datetime
import uuid
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID


@pytest.fixture(scope="module")
def key():
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def certificate(rig, key):
    """The name of one that Glance finds."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rig")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = Path(rig["certificates"]) / f"{uuid.uuid4()}.der"
    path.write_bytes(made.public_bytes(serialization.Encoding.DER))
    yield path.stem
    path.unlink()


def signed(key, certificate, body):
    """The properties of an image with this signature."""
    pss = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=padding.PSS.MAX_LENGTH)
    return {
        "img_signature": base64.b64encode(key.sign(body, pss, hashes.SHA256())).decode(),
        "img_signature_hash_method": "SHA-256",
        "img_signature_key_type": "RSA-PSS",
        "img_signature_certificate_uuid": certificate,
    }


@pytest.mark.parametrize("store", ["ceph", "fast"])
def test_right_signature(glance, key, certificate, raw, store):
    image = glance.active(raw, store, **signed(key, certificate, raw))
    assert glance.download(image).content == raw


@pytest.mark.parametrize("store", ["ceph", "fast"])
def test_wrong_signature(glance, rig, key, certificate, raw, store):
    image = glance.create(**signed(key, certificate, b"other bytes"))
    glance.upload(image, raw, store, expect=400)
    assert glance.show(image)["status"] == "queued"
    assert rig.held(store) == {}
