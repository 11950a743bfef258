"""A run that is handed on: the digests of all that it consists of, signed with somebody's Ed25519 key.

::

    RUN/signature.json   manifest (sha256 by file, content by artifact), and the signature of its canonical JSON, in hex

Digests say that nothing was damaged, and the audit that figures follow from scores.  Only a signature says that the run
is the one that somebody made; who has the public key from them can tell.
"""

import json
from pathlib import Path
from typing import Any

from llb_ray.disk import file_digest, json_bytes
from llb_ray.engine.inspection.finished_run import FinishedRun
from llb_ray.engine.rundir.run_folder import REPORT, SIGNATURE
from llb_ray.errors import AuditError, ConfigError, ResourceError

_PREFIX = b"llb_ray run 1\n"  # so that no signature of another thing is one of a run


def sign(run: FinishedRun, key: Path) -> str:
    """Write signature.json with the private key in the PEM file `key`; a sentence.

    Raises ConfigError for a file that holds no such key, ResourceError without the extra `sign`.
    """
    manifest = _manifest(run)
    signature = _loaded(key, private=True).sign(_message(manifest)).hex()
    run.folder.put(SIGNATURE, json_bytes({"manifest": manifest, "signature": signature}))
    return f"signed: {len(manifest['files'])} files and {len(manifest['artifacts'])} artifacts, in {SIGNATURE}"


def verify(run: FinishedRun, key: Path) -> str:
    """A sentence; raises AuditError unless signature.json is of this very run, by the owner of the public `key`."""
    where = f"{run.folder.where}/{SIGNATURE}"
    try:
        said = json.loads(run.folder.file(SIGNATURE).read_bytes())
        signed, signature = said["manifest"], bytes.fromhex(said["signature"])
    except FileNotFoundError as error:
        raise AuditError(f"{where}: is missing; llb-ray audit --sign KEY writes it") from error
    except (ValueError, KeyError, TypeError) as error:
        raise AuditError(f"{where}: damaged ({error}); llb-ray audit --sign KEY writes it again") from error
    _refuse_forged(where, key, signature, signed)
    for part, found in _manifest(run).items():
        odd = sorted(name for name in found.keys() | signed[part].keys() if found.get(name) != signed[part].get(name))
        if odd:
            raise AuditError(f"{where}: {odd[0]} is not what was signed ({len(odd)} such {part})")
    return f"signed by the owner of {key}: {len(signed['files'])} files and {len(signed['artifacts'])} artifacts"


def _refuse_forged(where: str, key: Path, signature: bytes, manifest: Any) -> None:
    public = _loaded(key, private=False)
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(signature, _message(manifest))
    except InvalidSignature as error:
        raise AuditError(f"{where}: was not signed with the key that belongs to {key}") from error


def _manifest(run: FinishedRun) -> dict[str, dict[str, str]]:
    names = ["run.json", "config.yaml", *run.folder.index().published]
    names += [REPORT] if run.folder.file(REPORT).exists() else []
    artifacts = {"/".join(made.path.parts[-2:]): made.content for made in run.made.artifacts()}
    return {"files": {name: file_digest(run.folder.file(name)) for name in names}, "artifacts": artifacts}


def _message(manifest: Any) -> bytes:
    return _PREFIX + json_bytes(manifest)


def _loaded(path: Path, private: bool) -> Any:
    """The Ed25519 key in a PEM file."""
    try:
        from cryptography.hazmat.primitives import serialization as pem
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise ResourceError(f"signing needs cryptography ({error}); pip install 'llb-ray[sign]'") from error
    kind = ed25519.Ed25519PrivateKey if private else ed25519.Ed25519PublicKey
    try:
        content = path.read_bytes()
        key = pem.load_pem_private_key(content, None) if private else pem.load_pem_public_key(content)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: no key in PEM form without a password ({error}); {_HOW}") from error
    if not isinstance(key, kind):
        raise ConfigError(f"{path}: is no {'private' if private else 'public'} Ed25519 key; {_HOW}")
    return key


_HOW = (
    "make one with `openssl genpkey -algorithm ed25519 -out KEY`, its public half with `openssl pkey -in KEY -pubout`"
)
