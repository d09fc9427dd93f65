"""From what a user names to the storage behind it."""

from __future__ import annotations

import os
from typing import Any

from atlas.config import S3_CLIENTS, choice, settings
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
    prefix = None if prefix is None else _text(prefix)
    if isinstance(source, (str, os.PathLike)):
        text = _text(source)
        if not text:
            raise InvalidArgument(f"not a path or URL: {source!r}")
        if "://" in text:
            return _from_url(text, prefix, storage_options or {}, single_writer)
        if storage_options:
            raise InvalidArgument(f"storage_options go with a URL, and {text!r} is a local path")
        return LocalStorage(os.path.abspath(os.path.join(text, prefix) if prefix else text))
    if storage_options:
        raise InvalidArgument(f"storage_options go with a URL; what {type(source).__name__} was made with counts")
    if hasattr(source, "cat_file") and hasattr(source, "pipe_file"):
        return _from_filesystem(source, prefix or "", single_writer)
    if type(source).__module__.startswith("obstore."):
        return _from_obstore(source, prefix or "", single_writer)
    raise InvalidArgument(f"cannot open a store at {type(source).__name__}; use a path, a URL or an fsspec file system")


def _text(path: Any) -> str:
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(text, str) or "\0" in text:
        raise InvalidArgument(f"not a path or URL: {path!r}")
    return text


def _below(path: str, prefix: str | None) -> str:
    return "/".join([path.rstrip("/"), prefix.lstrip("/")]) if prefix else path


def _from_url(url: str, prefix: str | None, options: dict[str, Any], single_writer: bool) -> Storage:
    import fsspec

    protocol, _, rest = url.partition("://")
    if protocol in ("s3", "s3a"):
        options = dict(options)
        if choice(options.pop("client", settings().s3_client), S3_CLIENTS, "client") == "obstore":
            from atlas.storage.obstore_client import s3_store

            handle, inner = s3_store(_below(rest, prefix), options)
            return _from_obstore(handle, inner, single_writer)
        from atlas.storage.s3 import with_defaults

        options = with_defaults(options)
    try:
        filesystem, path = fsspec.core.url_to_fs(url, **options)
    except (ValueError, TypeError, ImportError) as error:
        raise InvalidArgument(f"cannot open {protocol}://…: {error}") from None
    return _from_filesystem(filesystem, _below(path, prefix), single_writer)


def _from_filesystem(filesystem: Any, prefix: str, single_writer: bool) -> Storage:
    protocol = filesystem.protocol
    names = (protocol,) if isinstance(protocol, str) else protocol
    if "dir" in names:
        # A directory of another file system, whose own client is the better one.
        return _from_filesystem(filesystem.fs, _below(filesystem.path, prefix), single_writer)
    # As the file system has it: without the protocol, which people like to give all the same.
    prefix = filesystem._strip_protocol(prefix) if prefix else ""
    if "file" in names:
        return LocalStorage(os.path.abspath(prefix or "."))
    if getattr(filesystem, "asynchronous", False):
        raise InvalidArgument("a file system made with asynchronous=True belongs to its event loop; make one without")
    # Here, so that local stores do without the event loop.
    from atlas.storage.remote import RemoteStorage

    return RemoteStorage(filesystem, prefix.lstrip("/") if "s3" in names else prefix, single_writer)


def _from_obstore(handle: Any, prefix: str, single_writer: bool) -> Storage:
    if type(handle).__name__ == "LocalStore":
        if handle.prefix is None:
            raise InvalidArgument("a LocalStore without a prefix names no place; give a path, a URL or a file system")
        return LocalStorage(os.path.abspath(os.path.join(handle.prefix, prefix)))
    from atlas.storage.remote import RemoteStorage

    return RemoteStorage(handle, prefix.strip("/"), single_writer)
