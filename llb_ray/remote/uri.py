"""URIs that `pyarrow.fs` opens; messages never name one's credentials nor its query."""

import re
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from llb_ray.errors import ConfigError

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_WITHOUT_FOLDERS = ("s3", "gcs")  # there a folder is a part of a name; made on its own it would be an object more
_NO_SECRETS = ("scheme", "region", "endpoint_override")  # of a query; an error is more use with them
_SHORTEST_SECRET = 6


def is_uri(where: str) -> bool:
    """True if this is a URI rather than a path."""
    return _URI.match(where) is not None


@lru_cache
def open_uri(uri: str) -> tuple[Any, str]:
    """The file system that a URI names, and the path in it, once per process."""
    import pyarrow as pa
    from pyarrow.fs import FileSystem, PyFileSystem

    try:
        opened: tuple[Any, str] = FileSystem.from_uri(uri)
    except (ValueError, ImportError, pa.ArrowNotImplementedError) as error:
        # Not even the host is named: what cannot be read may hide a secret anywhere.
        raise ConfigError(
            f"{uri.partition('://')[0]}://...: not a URI that pyarrow.fs can open ({without_secrets(uri, error)}); "
            "write special characters of a password as %XX"
        ) from None
    if isinstance(opened[0], PyFileSystem):
        # fsspec caches the listing of a folder, and other machines put files there.
        opened[0].handler.fs.dircache.use_listings_cache = False
    return opened


def make_folder(filesystem: Any, name: str) -> None:
    """Make the folder that files need; asks first, for some file systems refuse one that is there."""
    from pyarrow.fs import FileType

    if filesystem.type_name not in _WITHOUT_FOLDERS and filesystem.get_file_info(name).type == FileType.NotFound:
        filesystem.create_dir(name, recursive=True)


def redact(uri: str) -> str:
    """The URI without credentials and query, as people may see it."""
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


def without_secrets(uri: str, error: Exception) -> str:
    """The first line of an error, in which no credentials of the URI are to be read."""
    parts = urlsplit(uri)
    user, _, _ = parts.netloc.rpartition("@")
    secrets = [
        uri,
        parts.query,
        user,
        *user.split(":"),
        *(value for key, value in parse_qsl(parts.query) if key not in _NO_SECRETS),
    ]
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    for secret in secrets:
        for spelling in (secret, unquote(secret)):
            if len(spelling) >= _SHORTEST_SECRET:
                reason = reason.replace(spelling, "***")
    return reason
