"""An object in S3 or a storage that speaks its protocol: byte ranges through the client of s3fs.

Credentials, endpoint and options are those of the environment (``AWS_...``, ``FSSPEC_S3_...``) and of the user's files,
as for every other program; no URL holds them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from ben_secure._system.optional import require
from ben_secure.errors import StoreError
from ben_secure.remote.addresses import split
from ben_secure.remote.answers import (
    Answer,
    MissingObjectError,
    Pin,
    TryAgainError,
    check_pin,
    check_range,
    failure,
)

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop


class BucketObject:
    """``s3://BUCKET/KEY``, with ``?versionId=ID`` if it is to be that version. To be made once for each process.

    Attributes:
        loop: The event loop in which ``get`` runs.
    """

    def __init__(self, url: str) -> None:
        """Find the settings; sends nothing.

        Raises:
            MissingExtraError: fsspec or s3fs is not installed.
            StoreError: The URL is malformed.
        """
        require("a database in a bucket", "fsspec", "s3fs")
        import fsspec

        parts = split(url)
        query = parse_qs(parts.query, keep_blank_values=True)
        self._version = query.pop("versionId", [""])[0]
        if query or "@" in parts.netloc:
            raise StoreError(
                "expected s3://BUCKET/KEY, with ?versionId=ID if need be; credentials belong into the environment or "
                "~/.aws"
            )
        self._bucket, self._key = parts.netloc, unquote(parts.path.lstrip("/"))
        self._files = fsspec.filesystem("s3")
        self.loop: AbstractEventLoop = self._files.loop

    async def get(self, start: int, stop: int, pin: Pin | None) -> Answer:
        """Read one range; arguments, result and errors as of ``WebObject.get``."""
        import aiohttp
        import botocore.exceptions as failures

        etag, version = pin or ("", self._version)
        options = {"IfMatch": etag} if etag else {}
        options |= {"VersionId": version} if version else {}
        try:
            await self._files.set_session()
            client = await self._files.get_s3(self._bucket)
            found = await client.get_object(
                Bucket=self._bucket, Key=self._key, Range=f"bytes={start}-{stop - 1}", **options
            )
            return await self._answer(found, start, stop, pin)
        except failures.NoCredentialsError:
            raise MissingObjectError(
                "there are no credentials for this bucket; set them up, or FSSPEC_S3_ANON=true for a public one"
            ) from None
        except failures.ClientError as error:
            raise failure(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)) from None
        except (
            *(failures.HTTPClientError, failures.ConnectionError, failures.IncompleteReadError),
            *(aiohttp.ClientError, asyncio.TimeoutError, OSError),
        ) as error:
            raise TryAgainError(f"the connection failed ({type(error).__name__})") from None
        except (failures.BotoCoreError, ValueError) as error:  # never its text: it may show a setting
            raise StoreError(
                f"the request for this bucket cannot be made ({type(error).__name__}); check the name of the bucket, "
                "and the settings in AWS_... and ~/.aws"
            ) from None

    async def _answer(self, found: dict[str, Any], start: int, stop: int, pin: Pin | None) -> Answer:
        async with found["Body"] as body:
            status = found["ResponseMetadata"]["HTTPStatusCode"]
            if status != 206:
                raise failure(status)
            total = check_range(found.get("ContentRange"), start, stop)
            version = found.get("VersionId", "")
            pinned = check_pin((found.get("ETag", ""), "" if version == "null" else version), pin)
            size = min(stop, total) - start
            data = await body.read(size)
            while len(data) < size and (more := await body.read(size - len(data))):
                data += more
        if len(data) != size:
            raise TryAgainError("the connection ended too early")
        return Answer(data, total, pinned)
