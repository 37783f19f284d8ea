"""Faults of storage: which pass and are tried again, which last and end the run.

Throttling, server errors, broken connections, cut bodies and expired tokens pass; they are tried
again after waits that grow, with jitter and a ceiling. Within a process all requests go through one
boto3 and one s3fs client in botocore's adaptive mode, whose token bucket slows every request down
when storage throttles one: they back off together. Refusals and missing buckets last.
"""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from tenacity import RetryCallState, Retrying, retry_if_exception
from tenacity import stop_after_attempt as attempts
from tenacity import wait_random_exponential as jittered
from urllib3.exceptions import HTTPError

from sdmad.errors import UserError

STORAGE_ERRORS = (OSError, BotoCoreError, ClientError, HTTPError)
ADAPTIVE = {"mode": "adaptive", "max_attempts": 5}
ATTEMPTS = 6
LONGEST_WAIT = 20.0
EXPIRED = frozenset(("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshed"))
REFUSED = frozenset(
    ("AccessDenied", "403", "Forbidden", "InvalidAccessKeyId", "SignatureDoesNotMatch")
)
MISSING = frozenset(("NoSuchKey", "404", "NotFound"))
logging.getLogger("botocore").setLevel(logging.ERROR)

Result = TypeVar("Result")


class ChangedError(UserError):
    """An object is another one than the one that was planned."""


def patiently(
    action: Callable[[], Result], uri: str, refresh: Callable[[], None] | None = None
) -> Result:
    """What `action` returns, tried again while storage falters; `refresh` renews credentials.

    Raises `FileNotFoundError` for an object that does not exist, and `UserError` for refusals and
    for faults that outlast every attempt.
    """

    def renew(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        if refresh and error and error_code(error) in EXPIRED:
            refresh()

    retrying = Retrying(
        retry=retry_if_exception(passes),
        stop=attempts(ATTEMPTS),
        wait=jittered(multiplier=0.2, max=LONGEST_WAIT),
        after=renew,
        reraise=True,
    )
    try:
        return retrying(action)
    except STORAGE_ERRORS as error:
        if is_missing(error):
            raise FileNotFoundError(uri) from None
        raise storage_error(uri, error) from error


def error_code(error: BaseException) -> str:
    """The S3 error code behind an exception of boto3 or s3fs, or an empty text."""
    source: Any = error if isinstance(error, ClientError) else error.__cause__
    return source.response["Error"]["Code"] if isinstance(source, ClientError) else ""


def is_missing(error: BaseException) -> bool:
    """Whether an object does not exist; a missing bucket is another matter."""
    code = error_code(error)
    kinds = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
    return code in MISSING or (isinstance(error, kinds) and code != "NoSuchBucket")


def passes(error: BaseException) -> bool:
    """Whether the same request may succeed later."""
    code = error_code(error)
    if code in EXPIRED:
        return True
    lasting = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    if isinstance(error, (*lasting, NoCredentialsError)):
        return False
    if code in REFUSED or code in MISSING or code == "NoSuchBucket":
        return False
    return isinstance(error, STORAGE_ERRORS)


def storage_error(uri: str, error: BaseException) -> UserError:
    """What a fault that lasts means to the user."""
    code = error_code(error)
    if isinstance(error, NoCredentialsError):
        return UserError(
            f"{uri}: there are no credentials; set AWS_PROFILE or give the node a role"
        )
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if code == "NoSuchBucket" or (code == "404" and "/" not in uri.removeprefix("s3://")):
        return UserError(
            f"{uri}: the bucket {bucket!r} does not exist; check its name and AWS_ENDPOINT_URL"
        )
    if code in EXPIRED:
        return UserError(
            f"{uri}: the credentials have expired ({code}); renew them, then give the same "
            "command again"
        )
    if code in REFUSED:
        return UserError(f"{uri}: access denied ({code}); check credentials and bucket policy")
    if isinstance(error, PermissionError):
        return UserError(f"{uri}: access denied; check credentials, their age, and permissions")
    return UserError(
        f"{uri}: storage cannot be reached ({code or type(error).__name__}); "
        "check the network and AWS_ENDPOINT_URL, then give the same command again"
    )
