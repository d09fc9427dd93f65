"""From what a user names to the storage behind it."""

from __future__ import annotations

import os
from typing import Any

from atlas.config import settings
from atlas.errors import InvalidArgument
from atlas.storage.base import Storage
from atlas.storage.local import LocalStorage


def open_storage(
    source: Any,
    prefix: str | None = None,
    storage_options: dict[str, Any] | None = None,
    single_writer: bool = False,
) -> Storage:
    """Return the storage at a local path, a URL, or a prefix of an fsspec file system.

    With `single_writer` the caller vouches that nobody else writes meanwhile.

    Raises
    ------
    InvalidArgument
        If `source` is none of these.
    """
    if isinstance(source, (str, os.PathLike)):
        text = os.fspath(source)
        if not isinstance(text, str) or not text:
            raise InvalidArgument(f"not a path or URL: {source!r}")
        if "://" in text:
            return _from_url(text, prefix, storage_options or {}, single_writer)
        if storage_options:
            raise InvalidArgument(f"storage_options go with a URL, and {text!r} is a local path")
        return LocalStorage(os.path.abspath(os.path.join(text, prefix) if prefix else text))
    if hasattr(source, "cat_file") and hasattr(source, "pipe_file"):
        return _from_filesystem(source, prefix or "", single_writer)
    if type(source).__module__.startswith("obstore."):
        return _from_obstore(source, prefix or "", single_writer)
    raise InvalidArgument(f"cannot open a store at {type(source).__name__}; use a path, a URL or an fsspec file system")


def _from_url(url: str, prefix: str | None, options: dict[str, Any], single_writer: bool) -> Storage:
    import fsspec

    protocol, _, rest = url.partition("://")
    if protocol in ("s3", "s3a"):
        options = dict(options)
        if options.pop("client", settings().s3_client) == "obstore":
            from atlas.storage.obstore_client import s3_store

            handle, inner = s3_store(f"{rest.rstrip('/')}/{prefix}" if prefix else rest, options)
            return _from_obstore(handle, inner, single_writer)
        from atlas.storage.s3 import with_defaults

        options = with_defaults(options)
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **options)
    except (ValueError, TypeError, ImportError) as error:
        raise InvalidArgument(f"cannot open {protocol}://…: {error}") from None
    return _from_filesystem(filesystem, f"{path.rstrip('/')}/{prefix}" if prefix else path, single_writer)


def _from_filesystem(filesystem: Any, prefix: str, single_writer: bool) -> Storage:
    protocol = filesystem.protocol
    names = (protocol,) if isinstance(protocol, str) else protocol
    if "dir" in names:
        # A directory of another file system, whose own client is the better one.
        return _from_filesystem(
            filesystem.fs, f"{filesystem.path}/{prefix}" if prefix else filesystem.path, single_writer
        )
    if "file" in names:
        return LocalStorage(os.path.abspath(prefix or "."))
    if getattr(filesystem, "asynchronous", False):
        raise InvalidArgument("a file system made with asynchronous=True belongs to its event loop; make one without")
    # Here, so that local stores do without the event loop.
    from atlas.storage.remote import RemoteStorage

    return RemoteStorage(filesystem, prefix, single_writer)


def _from_obstore(handle: Any, prefix: str, single_writer: bool) -> Storage:
    if type(handle).__name__ == "LocalStore":
        if handle.prefix is None:
            raise InvalidArgument("a LocalStore without a prefix names no place; give a path, a URL or a file system")
        return LocalStorage(os.path.abspath(os.path.join(handle.prefix, prefix)))
    from atlas.storage.remote import RemoteStorage

    return RemoteStorage(handle, prefix.strip("/"), single_writer)
