"""An object on a web server: byte ranges over HTTP, in the session of fsspec's HTTP file system.

fsspec provides the event loop, the session and the user's settings (``~/.config/fsspec``). Its ``cat_file`` is not
used, because it ignores the status, and reads the whole object from a server without ranges.
"""

from __future__ import annotations

import asyncio
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlunsplit

from ben_secure._system.optional import require
from ben_secure.errors import StoreError
from ben_secure.remote.addresses import split
from ben_secure.remote.answers import Answer, Pin, TryAgainError, check_pin, check_range, failure

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

_CONNECT_S, _SILENCE_S, _BYTES_A_SECOND = 10, 20, 100_000
_GONE = (401, 403, 404, 410)


class WebObject:
    """One URL. Each process makes its own.

    Attributes:
        loop: The event loop in which ``get`` runs.
    """

    def __init__(self, url: str) -> None:
        """Prepare a session, without any request.

        Raises:
            MissingExtraError: fsspec or aiohttp is not installed.
            StoreError: The URL is malformed.
        """
        require("a database on a web server", "fsspec", "aiohttp")
        import fsspec
        import yarl  # which aiohttp requires

        url_parts = split(url)
        self._authorization = {}  # only for the server that the caller named
        if url_parts.username is not None:
            user = f"{unquote(url_parts.username)}:{unquote(url_parts.password or '')}"
            self._authorization = {"Authorization": f"Basic {b64encode(user.encode()).decode()}"}
        bare = urlunsplit(url_parts._replace(netloc=url_parts.netloc.rpartition("@")[2], fragment=""))
        # A presigned URL must not be re-encoded: the signature covers its exact characters.
        self._url: Any = yarl.URL(bare, encoded="%" in bare)
        self._latest = self._url  # the target of the last redirection
        scheme = url_parts.scheme.lower()
        settings = fsspec.config.conf.get(scheme, {}).get("client_kwargs", {})
        # aiohttp withholds them from another server only when it follows a redirection itself.
        self._has_user_headers = bool(settings.keys() & {"headers", "auth"})
        self._files = fsspec.filesystem(scheme, client_kwargs={"trust_env": True, **settings})
        self.loop: AbstractEventLoop = self._files.loop

    async def get(self, start: int, stop: int, pin: Pin | None) -> Answer:
        """Read one range.

        Args:
            start: First byte.
            stop: End of the range (exclusive). It may be beyond the end of the object.
            pin: The required version, or None for any.

        Returns:
            The bytes.

        Raises:
            MissingObjectError: There is no such object, or access to it is refused.
            StoreError: The server does not support ranges, the object was changed, or it has no version to pin.
            TryAgainError: The connection failed, or the server is busy.
        """
        import aiohttp

        headers = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        headers |= {} if pin is None else {"If-Match": pin[0]}
        if self._latest.origin() == self._url.origin():
            headers |= self._authorization
        timeout = aiohttp.ClientTimeout(
            total=3 * _SILENCE_S + (stop - start) / _BYTES_A_SECOND, sock_connect=_CONNECT_S, sock_read=_SILENCE_S
        )
        session = await self._files.set_session()
        try:
            async with session.get(self._latest, headers=headers, timeout=timeout) as response:
                return await self._answer(response, start, stop, pin)
        except asyncio.TimeoutError:
            raise TryAgainError("the server does not answer in time") from None
        except aiohttp.ClientSSLError:
            raise StoreError(
                "the server's certificate or TLS protocol is not valid for https; nothing was read"
            ) from None
        except UnicodeError:
            raise StoreError("the URL, or the URL of a redirection, has a malformed host name; check the URL") from None
        except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError) as error:
            # Its text may contain the URL of a redirection, so it is not shown.
            raise TryAgainError(f"the connection failed ({type(error).__name__})") from None

    async def _answer(self, response: Any, start: int, stop: int, pin: Pin | None) -> Answer:
        if self._url.scheme == "https" and response.url.scheme != "https":
            raise StoreError("the server redirects from https to http; expected https; nothing was read")
        if response.status != 206:
            if self._latest != self._url and response.status in _GONE:
                self._latest = self._url  # the target of the redirection may have expired
                raise TryAgainError(f"the server answers with status {response.status}")
            raise failure(response.status)
        total = check_range(response.headers.get("Content-Range"), start, stop)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise StoreError(
                "the server compresses its answers, so byte ranges are not those of the object; expected "
                "uncompressed bytes; download the database and open the local copy"
            )
        pinned = check_pin((response.headers.get("ETag", ""), ""), pin)
        if not self._has_user_headers or response.url.origin() == self._url.origin():
            self._latest = response.url
        return Answer(await response.content.readexactly(min(stop, total) - start), total, pinned)
