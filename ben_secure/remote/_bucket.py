"""An object in S3 or compatible storage: byte ranges through the client of s3fs.

Credentials, endpoint and options come from the environment (``AWS_...``, ``FSSPEC_S3_...``) and the user's files, as
for other programs. They are never in a URL.
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
    """``s3://BUCKET/KEY``, with ``?versionId=ID`` for one version. Each process makes its own.

    Attributes:
        loop: The event loop in which ``get`` runs.
    """

    def __init__(self, url: str) -> None:
        """Find the settings, without any request.

        Raises:
            MissingExtraError: fsspec or s3fs is not installed.
            StoreError: The URL is malformed.
        """
        require("a database in a bucket", "fsspec", "s3fs")
        import fsspec

        url_parts = split(url)
        query = parse_qs(url_parts.query, keep_blank_values=True)
        self._version = query.pop("versionId", [""])[0]
        if query or "@" in url_parts.netloc:
            raise StoreError(
                "expected s3://BUCKET/KEY, optionally with ?versionId=ID; put credentials into the environment or "
                "~/.aws"
            )
        self._bucket, self._key = url_parts.netloc, unquote(url_parts.path.lstrip("/"))
        self._files = fsspec.filesystem("s3")
        self.loop: AbstractEventLoop = self._files.loop

    async def get(self, start: int, stop: int, pin: Pin | None) -> Answer:
        """Read one range. Arguments, result and errors are those of ``WebObject.get``."""
        import aiohttp
        import botocore.exceptions as failures

        etag, version = pin or ("", self._version)
        options = {"IfMatch": etag} if etag else {}
        options |= {"VersionId": version} if version else {}
        try:
            await self._files.set_session()
            client = await self._files.get_s3(self._bucket)
            response = await client.get_object(
                Bucket=self._bucket, Key=self._key, Range=f"bytes={start}-{stop - 1}", **options
            )
            return await self._answer(response, start, stop, pin)
        except failures.NoCredentialsError:
            raise MissingObjectError(
                "no credentials were found for this bucket; set them up, or use FSSPEC_S3_ANON=true for a public bucket"
            ) from None
        except failures.ClientError as error:
            raise failure(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)) from None
        except (
            *(failures.HTTPClientError, failures.ConnectionError, failures.IncompleteReadError),
            *(aiohttp.ClientError, asyncio.TimeoutError, OSError),
        ) as error:
            raise TryAgainError(f"the connection failed ({type(error).__name__})") from None
        except (failures.BotoCoreError, ValueError) as error:  # its text may contain a setting, so it is not shown
            raise StoreError(
                f"the request for this bucket cannot be made ({type(error).__name__}); check the name of the bucket, "
                "and the settings in AWS_... and ~/.aws"
            ) from None

    async def _answer(self, response: dict[str, Any], start: int, stop: int, pin: Pin | None) -> Answer:
        body = response["Body"]
        async with body:  # not `as body`: aiobotocore 2 gives the response itself there
            status = response["ResponseMetadata"]["HTTPStatusCode"]
            if status != 206:
                raise failure(status)
            total = check_range(response.get("ContentRange"), start, stop)
            version = response.get("VersionId", "")
            pinned = check_pin((response.get("ETag", ""), "" if version == "null" else version), pin)
            size = min(stop, total) - start
            data = await body.read(size)
            while len(data) < size and (more := await body.read(size - len(data))):
                data += more
        if len(data) != size:
            raise TryAgainError("the connection ended too early")
        return Answer(data, total, pinned)
