"""The store in S3, by boto3: `PutObject IfNoneMatch="*"` is create-if-absent.

Credentials come from boto3's default chain and show up in no message. `upload_file` is not used: it rejects IfNoneMatch.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final, TypeVar
from urllib.parse import quote, unquote, urlsplit

import boto3
import tenacity
from botocore import exceptions as aws
from botocore.config import Config

from tasks.corpus.failures import Category, NotFound, StoreError, UsageError
from tasks.corpus.names import printable
from tasks.corpus.store import ObjectInfo
from tasks.corpus.store_folder import copy

T = TypeVar("T")

MAX_KEY: Final = 1024
"""Bytes of a whole key, prefix included."""

MAX_COPY: Final = 5 * 1024**3
"""Bytes that one CopyObject may copy."""

PROBE: Final = ".pdf-flows-probe"
"""The object that `probe` makes."""

RETRIES: Final = 8
"""Retries of one request by the SDK (standard mode: 5xx, throttling, lost connections), about a minute in all."""

_CHUNK: Final = 1 << 20
_LAST: Final = "\U0010ffff"
"""The character that sorts last."""
_REGION: Final = "us-east-1"
_BUCKET: Final = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_TYPES: Final = {
    ".md": "text/markdown; charset=utf-8",
    ".json": "application/json",
    ".jsonl": "application/x-ndjson",
    ".html": "text/html; charset=utf-8",
    ".zst": "application/zstd",
    ".png": "image/png",
    ".jpg": "image/jpeg",
}

# Of each listed object only key, size and ETag are wanted: parsing the rest, dates above all, is five sixths of a listing's time.
_UNWANTED: Final = re.compile(rb"<(LastModified|ChecksumAlgorithm|ChecksumType|StorageClass)>[^<]*</\1>")

_DENIED: Final = frozenset({"AccessDenied", "AllAccessDisabled", "AccountProblem", "403", "Forbidden"})
_WRONG_KEYS: Final = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId", "AuthFailure"}
)
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired"})
_ELSEWHERE: Final = frozenset(
    {"PermanentRedirect", "301", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException"}
)
_ABSENT: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_FULL: Final = frozenset({"XMinioStorageFull", "QuotaExceeded", "507", "InsufficientStorage", "EntityTooLarge.Quota"})
_UNCONDITIONAL: Final = frozenset({"NotImplemented", "501"})

_NO_CREDENTIALS = (
    aws.NoCredentialsError,
    aws.PartialCredentialsError,
    aws.CredentialRetrievalError,
    aws.NoAuthTokenError,
    aws.TokenRetrievalError,
    aws.SSOError,
    aws.LoginError,
    aws.MetadataRetrievalError,
    aws.InfiniteLoopConfigError,
)
_UNREACHABLE = (aws.HTTPClientError, aws.ConnectionError)
# The SDK retries a request, not the reading of its body: a connection lost there comes up as one of these.
_TORN = (aws.HTTPClientError, aws.ConnectionError, aws.IncompleteReadError, aws.FlexibleChecksumError)


class S3Store:
    """A bucket, or the part of it below a prefix (see :class:`tasks.corpus.store.Store`). Thread-safe, as boto3's clients are."""

    def __init__(
        self, bucket: str, prefix: str, url: str, session: boto3.session.Session, retries: int = RETRIES
    ) -> None:
        """Use `from_url`. `prefix` is "" or ends in "/"."""
        self._bucket = bucket
        self._prefix = prefix
        self._url = url
        self._session = session
        self._client: Any = session.client(
            "s3",
            region_name=session.region_name or _REGION,
            config=Config(
                connect_timeout=10,
                read_timeout=60,
                max_pool_connections=50,
                retries={"mode": "standard", "max_attempts": retries},
                user_agent_extra="pdf-flows",
            ),
        )

        self._client.meta.events.register("before-parse.s3.ListObjectsV2", _strip)

    @classmethod
    def from_url(cls, url: str) -> S3Store:
        """The store for `s3://bucket[/prefix]`. The prefix means a folder: `pdfs` does not match `pdfs2/`.

        The prefix is taken as it stands: nothing in it is decoded. No request is made.

        Raises:
            UsageError: A bad bucket name, or an AWS configuration that cannot be used.
        """
        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        if not url.startswith("s3://") or not _BUCKET.fullmatch(bucket):
            raise UsageError(f"not an S3 address: {printable(url)}: write s3://bucket/prefix, the bucket in lower case")
        prefix = prefix if not prefix or prefix.endswith("/") else prefix + "/"
        if _bytes(prefix) is None:
            raise UsageError(f"not an S3 address: {printable(url)}: the prefix is not UTF-8")
        try:
            return cls(bucket, prefix, url, boto3.session.Session())
        except aws.ProfileNotFound as e:
            raise UsageError(
                "the AWS profile does not exist: check AWS_PROFILE, or see `aws configure list-profiles`"
            ) from e
        except _NO_CREDENTIALS as e:
            raise UsageError(_no_credentials(bucket, e)) from e
        except (aws.BotoCoreError, ValueError) as e:
            why = f"{type(e).__name__}: check the region, the endpoint and the AWS configuration files"
            raise UsageError(f"cannot use the AWS configuration: {why}") from e

    def impatient(self) -> S3Store:
        """The same store, giving up after one retry: for the first contact, where a wrong address should show at once."""
        return S3Store(self._bucket, self._prefix, self._url, self._session, retries=1)

    @property
    def url(self) -> str:
        """The root as the user gave it."""
        return self._url

    def display(self, key: str) -> str:
        """The key below the bucket, on one line."""
        return printable(self._prefix + key)

    def list(self, prefix: str = "", *, skip: str | None = None) -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, in order of the key's bytes, a page of 1,000 at a time.

        Keys that end in "/" are other programs' markers of folders and not listed. What starts with `skip` is jumped over:
        at most one page of it is transferred.
        """
        if _bytes(prefix) is None:
            return
        with self._errors("s3:ListBucket", prefix):
            objects = self._pages(self._prefix + prefix)
            if skip is None:
                yield from objects
                return
            for found in objects:
                if found.key.startswith(skip):
                    break
                yield found
            else:
                return
            for found in self._pages(self._prefix + prefix, after=f"{self._prefix}{skip}{_LAST}"):
                if not found.key.startswith(skip):
                    yield found

    def _pages(self, prefix: str, after: str | None = None) -> Iterator[ObjectInfo]:
        start = {} if after is None else {"StartAfter": after}
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix, **start)
        for page in pages:
            for found in page.get("Contents", ()):
                key = found["Key"]
                if not key.endswith("/"):
                    yield ObjectInfo(key[len(self._prefix) :], found["Size"], found["ETag"].strip('"'))

    def read(self, key: str) -> bytes:
        """The object's content. Raises NotFound."""

        def call() -> bytes:
            content: bytes = self._get(key)["Body"].read()
            return content

        with self._errors("s3:GetObject", key):
            return _whole(call)

    def fetch(self, key: str, to: Path) -> ObjectInfo:
        """Stream the object to a local file in chunks of 1 MiB; what comes short is fetched again. Raises NotFound."""

        def call() -> ObjectInfo:
            answer = self._get(key)
            size = copy(answer["Body"].iter_chunks(_CHUNK), to)
            if size != answer["ContentLength"]:
                raise aws.IncompleteReadError(actual_bytes=size, expected_bytes=answer["ContentLength"])
            return ObjectInfo(key, size, answer["ETag"].strip('"'))

        with self._errors("s3:GetObject", key):
            return _whole(call)

    def head(self, key: str) -> ObjectInfo | None:
        """The object's size and ETag, or None."""
        try:
            found = self._head(key)
        except NotFound:
            return None
        return ObjectInfo(key, found["ContentLength"], found["ETag"].strip('"'))

    def metadata(self, key: str) -> Mapping[str, str]:
        """What `create` was given; S3 keeps the names in lower case. Raises NotFound."""
        return {name: unquote(value) for name, value in self._head(key)["Metadata"].items()}

    def create(self, key: str, data: bytes, metadata: Mapping[str, str] | None = None) -> bool:
        """Create if absent (If-None-Match: *). A 409, two conditional writes at the same time, is tried again."""
        kept = {name: quote(value, safe=" /:+=@,;") for name, value in (metadata or {}).items()}

        def call() -> bool:
            try:
                self._put(key, data, {"IfNoneMatch": "*", "Metadata": kept})
            except aws.ClientError as e:
                if _code(e) in ("PreconditionFailed", "412"):
                    return False
                raise
            return True

        with self._errors("s3:PutObject", key):
            try:
                return _settled(call)
            except aws.ClientError as e:
                if not _is_conflict(e) or self.head(key) is None:
                    raise
                return False

    def put(self, key: str, data: bytes) -> None:
        """Create or replace: one PutObject."""
        with self._errors("s3:PutObject", key):
            self._put(key, data, {})

    def move(self, key: str, to: str) -> None:
        """Copy, then delete; a move that was cut short between the two is finished. Raises NotFound."""
        if key == to:
            raise StoreError(f"cannot move {self.display(key)} to itself")
        source = self._head(key)
        there = self.head(to)
        if there is not None and (there.size, there.etag) != (source["ContentLength"], source["ETag"].strip('"')):
            raise StoreError(f"cannot move {self.display(key)}: {self.display(to)} exists already")
        if source["ContentLength"] > MAX_COPY:
            raise StoreError(f"cannot move {self.display(key)}: larger than 5 GiB")
        if there is None:
            with self._errors("s3:PutObject", to):
                self._client.copy_object(
                    Bucket=self._bucket,
                    Key=self._full(to),
                    CopySource={"Bucket": self._bucket, "Key": self._full(key)},
                    CopySourceIfMatch=source["ETag"],
                )
        self.delete(key)

    def delete(self, key: str) -> None:
        """Delete; absent is fine."""
        if not key or _bytes(key) is None:
            return
        with self._errors("s3:DeleteObject", key):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def probe(self) -> None:
        """Prove that objects can be created if absent.

        Workers' roles may write and not delete: then an empty object, PROBE, stays, one however often it is proved.

        Raises:
            UsageError: No credentials, no such bucket, not allowed, unreachable, or a store without conditional writes.
        """
        store = self.impatient()
        without = f"the store has no create-if-absent (If-None-Match): {printable(self._url)}: choose another output"
        try:
            # Whoever else proves it at this moment may have deleted the object in between: not one that nobody else knows.
            exclusive = store._excludes(PROBE) or store._excludes(f"{PROBE}-{secrets.token_hex(8)}")
        except StoreError as e:
            cause = e.__cause__
            if isinstance(cause, aws.ClientError) and _code(cause) in _UNCONDITIONAL:
                raise UsageError(without) from e
            if isinstance(e, NotFound):
                where = f" at {endpoint}" if (endpoint := self._client.meta.endpoint_url) else ""
                raise UsageError(
                    f"{printable(self._url)}: what answers{where} is no S3: see AWS_ENDPOINT_URL, or name another output"
                ) from e
            raise UsageError(str(e)) from e
        if not exclusive:
            raise UsageError(without)

    def _excludes(self, key: str) -> bool:
        """Whether an object that exists is not created again. It is written, and deleted where that is allowed."""
        if self.create(key, b""):
            exclusive = not self.create(key, b"")
        else:
            exclusive = True
            # It was there: that it was refused does not say that one can be written.
            self.put(key, b"")
        try:
            self.delete(key)
        except StoreError as e:
            if e.category is not Category.FORBIDDEN:
                raise
        return exclusive

    def _full(self, key: str) -> str:
        """The whole key of an object to be written. Raises StoreError."""
        size = _bytes(self._prefix + key)
        if not key or size is None or size > MAX_KEY:
            why = "empty" if not key else "not UTF-8" if size is None else f"{size} bytes, S3 allows {MAX_KEY}"
            raise StoreError(f"S3 cannot hold an object of this name: {self.display(key)}: {why}")
        return self._prefix + key

    def _put(self, key: str, data: bytes, more: dict[str, object]) -> None:
        kind = _TYPES.get(PurePosixPath(key).suffix, "application/octet-stream")
        self._client.put_object(Bucket=self._bucket, Key=self._full(key), Body=data, ContentType=kind, **more)

    def _get(self, key: str) -> dict[str, Any]:
        # Its errors are final, the SDK has retried them: only those of the body are left to `_whole`.
        with self._errors("s3:GetObject", key):
            return self._ask(self._client.get_object, key)

    def _head(self, key: str) -> dict[str, Any]:
        with self._errors("s3:GetObject", key):
            return self._ask(self._client.head_object, key)

    def _ask(self, operation: Callable[..., dict[str, Any]], key: str) -> dict[str, Any]:
        size = _bytes(self._prefix + key)
        if not key or size is None or size > MAX_KEY:
            raise NotFound(key)
        return operation(Bucket=self._bucket, Key=self._prefix + key)

    @contextmanager
    def _errors(self, action: str, key: str) -> Iterator[None]:
        """The SDK's errors as StoreError, in our words: the server's may quote what is nobody's business."""
        try:
            yield
        except aws.ClientError as e:
            raise self._refusal(e, action, key) from e
        except _NO_CREDENTIALS as e:
            raise StoreError(_no_credentials(self._bucket, e), Category.FORBIDDEN) from e
        except _UNREACHABLE as e:
            host = urlsplit(self._client.meta.endpoint_url)
            at = f"{host.hostname}:{host.port}" if host.port else f"{host.hostname}"
            message = f"cannot reach S3 at {at} for s3://{self._bucket} ({type(e).__name__}): check network, region and endpoint"
            raise StoreError(message) from e
        except aws.BotoCoreError as e:
            raise StoreError(f"{action} failed on s3://{self._bucket}/{self.display(key)}: {type(e).__name__}") from e

    def _refusal(self, e: aws.ClientError, action: str, key: str) -> StoreError:
        code, bucket, where = _code(e), f"s3://{self._bucket}", f"s3://{self._bucket}/{self.display(key)}"
        http = e.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code == "NoSuchBucket":
            return StoreError(f"no such bucket: {bucket}: create it, or check the spelling")
        if code in _ABSENT:
            return NotFound(key)
        if code in _EXPIRED:
            return StoreError(
                f"the AWS credentials for {bucket} have expired: renew them (`aws sso login`)", Category.FORBIDDEN
            )
        if code in _WRONG_KEYS:
            return StoreError(
                f"the AWS credentials were not accepted for {bucket} ({code}): check them", Category.FORBIDDEN
            )
        if code == "RequestTimeTooSkewed":
            return StoreError(
                f"this machine's clock is wrong, so {bucket} refuses it: set the clock", Category.FORBIDDEN
            )
        if code in _ELSEWHERE:
            return StoreError(
                f"{bucket} is in another region ({code}): set AWS_REGION to the bucket's", Category.FORBIDDEN
            )
        if code == "InvalidObjectState":
            return StoreError(f"archived (Glacier): {where}: restore it first", Category.FORBIDDEN)
        if code in _FULL or http == 507:
            return StoreError(f"no space or quota left: {where} ({code})", Category.DISK_FULL)
        if code in _DENIED or http == 403:
            return StoreError(f"access denied: {action} on {where}: allow it to this role or user", Category.FORBIDDEN)
        return StoreError(f"{action} failed on {where}: {code} (HTTP {http})")


def _no_credentials(bucket: str, e: Exception) -> str:
    return f"no usable AWS credentials for s3://{bucket} ({type(e).__name__}): run `aws configure` or set AWS_PROFILE"


def _strip(response_dict: dict[str, Any], **_: object) -> None:
    response_dict["body"] = _UNWANTED.sub(b"", response_dict["body"])


def _code(e: aws.ClientError) -> str:
    return str(e.response.get("Error", {}).get("Code", ""))


def _is_conflict(e: BaseException) -> bool:
    return isinstance(e, aws.ClientError) and _code(e) in ("ConditionalRequestConflict", "409")


def _bytes(text: str) -> int | None:
    """Length in UTF-8, or None where the text has none."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None


def _settled(call: Callable[[], T]) -> T:
    """Tried again while another conditional write of the same key is under way: about 10 s in all."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(_is_conflict),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=3),
        stop=tenacity.stop_after_attempt(8),
        reraise=True,
    )(call)


def _whole(call: Callable[[], T]) -> T:
    """Tried again when the connection is lost while the body is read."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(_TORN)
        & tenacity.retry_if_not_exception_type(aws.EndpointConnectionError),
        wait=tenacity.wait_random_exponential(multiplier=0.2, max=5),
        stop=tenacity.stop_after_attempt(4),
        reraise=True,
    )(call)
