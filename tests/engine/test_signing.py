"""A signed run: what was changed since, and who did not sign it, is told."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives import serialization as pem
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from llb_ray import api
from llb_ray.cli import main
from llb_ray.errors import AuditError, ConfigError
from tests.support import artifact_of, republish, reseal


def _keys(folder: Path) -> tuple[Path, Path]:
    """A private key and its public one, as files."""
    key = ed25519.Ed25519PrivateKey.generate()
    private, public = folder / "key.pem", folder / "public.pem"
    private.write_bytes(key.private_bytes(pem.Encoding.PEM, pem.PrivateFormat.PKCS8, pem.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def signed(finished: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A signed copy of a finished run, and the public key."""
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    private, public = _keys(tmp_path)
    told = CliRunner().invoke(main, ["audit", str(run), "--rescore", "none", "--sign", str(private)])
    assert (told.exit_code, "signed: 10 files and 17 artifacts" in told.output) == (0, True), told.output
    return run, public


def _model(run: Path) -> None:
    """Another detector, with digests and keys that are right."""
    artifact = artifact_of(run, "final")
    path = artifact / "detector.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    reseal(artifact)


def _published(run: Path) -> None:
    (run / "metrics.json").write_text("{}")
    republish(run, "metrics.json")


def _rewritten(run: Path) -> None:
    said = json.loads((run / "signature.json").read_text())
    said["manifest"]["files"]["metrics.json"] = "0" * 64
    (run / "signature.json").write_text(json.dumps(said))


CHANGES = {
    "model": (_model, "is not what was signed"),
    "published": (_published, "is not what was signed"),
    "a file more": (lambda run: (run / "report.html").touch(), "report.html is not what was signed"),
    "its manifest": (_rewritten, "was not signed with the key"),
    "gone": (lambda run: (run / "signature.json").unlink(), "signature.json: is missing"),
    "damaged": (lambda run: (run / "signature.json").write_text("[]"), "signature.json: damaged"),
}


@pytest.mark.parametrize(("change", "sentence"), CHANGES.values(), ids=CHANGES.keys())
def test_what_changed_since_is_told(change: Callable[[Path], object], sentence: str, signed: tuple[Path, Path]) -> None:
    run, public = signed
    assert api.audit(run, rescore=None, verify=public)[0].startswith("signed by the owner of")
    change(run)
    with pytest.raises(AuditError, match=sentence):
        api.audit(run, rescore=None, verify=public)


def test_somebody_elses_key_and_what_is_no_key_are_refused(signed: tuple[Path, Path], tmp_path: Path) -> None:
    run, _ = signed
    (tmp_path / "other").mkdir()
    private, other = _keys(tmp_path / "other")
    with pytest.raises(AuditError, match="was not signed with the key"):
        api.audit(run, rescore=None, verify=other)
    wrong = rsa.generate_private_key(65537, 2048).public_key()
    (tmp_path / "rsa.pem").write_bytes(wrong.public_bytes(pem.Encoding.PEM, pem.PublicFormat.SubjectPublicKeyInfo))
    for key in (private, tmp_path / "rsa.pem", tmp_path / "gone.pem", run / "run.json"):
        with pytest.raises(ConfigError, match="openssl genpkey"):
            api.audit(run, rescore=None, verify=key)


def test_a_run_that_does_not_follow_is_not_signed(finished: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(finished, tmp_path / "run"))
    private, _ = _keys(tmp_path)
    _published(run)
    with pytest.raises(AuditError):
        api.audit(run, rescore=None, sign=private)
    assert not (run / "signature.json").exists()
