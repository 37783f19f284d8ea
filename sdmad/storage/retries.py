"""Storage errors: which are temporary and retried, and which end the run.

Throttling, server errors, broken connections, truncated bodies and expired tokens are temporary.
They are retried with exponential backoff and jitter, at most `LONGEST_WAIT` seconds apart. All
requests of a process share one boto3 and one s3fs client in botocore's adaptive mode: when storage
throttles one request, its token bucket slows down all of them.

A refusal (any other 4xx answer) is permanent. One that concerns a single object is an
`ObjectError`, and the object gets a row in the failures table: it is in an archive tier, or its key
of KMS cannot be used. One that concerns the bucket or the credentials ends the run. "Access denied"
can be either: `s3` asks whether another object can be read.
"""

import errno
import os
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
DENIED = frozenset(("AccessDenied", "403", "Forbidden"))
# Refusals of the credentials, the account or the bucket.
OF_ALL = frozenset(
    (
        *("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId"),
        *("InvalidSecurity", "UnrecognizedClientException", "AuthFailure", "UnauthorizedAccess"),
        *("AccountProblem", "AllAccessDisabled", "NotSignedUp", "InvalidPayer"),
        *("RequestTimeTooSkewed", "AuthorizationHeaderMalformed", "PermanentRedirect"),
        *("InvalidBucketName", "301", "401", "Unauthorized"),
    )
)
# Refusals of one object; an object under a key of the customer (SSE-C) gives InvalidRequest.
OF_THE_OBJECT = frozenset(
    (
        *("InvalidObjectState", "InvalidRequest", "MethodNotAllowed", "InvalidRange", "416"),
        *("KeyTooLongError", "NoSuchVersion", "InvalidEncryptionAlgorithmError"),
    )
)
# 4xx answers to requests that may succeed later.
PASSING = frozenset(
    (
        *("RequestTimeout", "RequestTimeoutException", "PriorRequestNotComplete", "408", "425"),
        *("Throttling", "ThrottlingException", "TooManyRequests", "TooManyRequestsException"),
        *("429", "RequestLimitExceeded", "IncompleteBody", "BadDigest", "OperationAborted"),
        *("XAmzContentSHA256Mismatch", "ConditionalRequestConflict", "409", "Busy", "SlowDown"),
        *("KMS.ThrottlingException", "KMS.KMSInternalException", "KMS.InternalException"),
        *("KMS.DependencyTimeoutException", "KMS.LimitExceededException"),
    )
)
MISSING = frozenset(("NoSuchKey", "404", "NotFound"))
# Errors of one local file that no repetition changes.
OF_THE_PATH = frozenset((errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG))
OF_THE_FILE = OF_THE_PATH | {errno.EIO}

Result = TypeVar("Result")


class ChangedError(UserError):
    """An object is no longer the one that was planned."""


class ObjectError(UserError):
    """One object cannot be read, and others may be; `reason` is for the failures table."""

    reason = ""

    @staticmethod
    def of(uri: str, reason: str) -> "ObjectError":
        error = ObjectError(f"{uri}: {reason}")
        error.reason = reason
        return error


class RefusedError(UserError):
    """A refusal of the object, or of the bucket or the credentials: `code` does not tell which."""

    code = ""


def patiently(
    action: Callable[[], Result], uri: str, refresh: Callable[[], None] | None = None
) -> Result:
    """The result of `action`, retried on temporary errors; `refresh` renews expired credentials.

    Raises `FileNotFoundError` for an object that does not exist, `ObjectError` if only this object
    cannot be read, and `UserError` if access is denied or all `ATTEMPTS` fail.
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


def check_size(uri: str, size: int, most: int | None) -> None:
    """Raise `ObjectError` for an object of more than `most` bytes."""
    if most is not None and size > most:
        raise ObjectError.of(uri, f"too large: {size} bytes")


def error_code(error: BaseException) -> str:
    """The S3 error code in an exception of boto3 or s3fs; empty if it has none."""
    source: Any = error if isinstance(error, ClientError) else error.__cause__
    return source.response["Error"]["Code"] if isinstance(source, ClientError) else ""


def _answer(error: BaseException) -> tuple[int, str]:
    """The HTTP status and the message of an S3 error; 0 and an empty text if it has none."""
    source: Any = error if isinstance(error, ClientError) else error.__cause__
    if not isinstance(source, ClientError):
        return 0, ""
    status = source.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return int(status), str(source.response["Error"].get("Message", ""))


def is_missing(error: BaseException) -> bool:
    """Whether an object does not exist; False for a missing bucket."""
    code = error_code(error)
    kinds = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
    return code in MISSING or (isinstance(error, kinds) and code != "NoSuchBucket")


def passes(error: BaseException) -> bool:
    """Whether an error is temporary: the same request may succeed later."""
    code = error_code(error)
    if code in EXPIRED:
        return True
    lasting = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)
    if isinstance(error, (*lasting, NoCredentialsError)):
        return False
    if isinstance(error, OSError) and error.errno in OF_THE_PATH:
        return False
    if code in PASSING:
        return True
    if code in DENIED | OF_ALL | OF_THE_OBJECT | MISSING or code == "NoSuchBucket":
        return False
    if 400 <= _answer(error)[0] < 500:
        return False
    return isinstance(error, STORAGE_ERRORS)


def storage_error(uri: str, error: BaseException) -> UserError:
    """The exception for a permanent error: `ObjectError` if it concerns one object only.

    `RefusedError` if that is not known.
    """
    code = error_code(error)
    if isinstance(error, OSError) and error.errno in OF_THE_FILE and "://" not in uri:
        return ObjectError.of(uri, f"cannot be read: {_in_words(error)}")
    if isinstance(error, NoCredentialsError):
        return UserError(
            f"{uri}: there are no credentials; set AWS_PROFILE or give the node an IAM role"
        )
    bucket = uri.removeprefix("s3://").partition("/")[0]
    if code == "NoSuchBucket" or (code == "404" and "/" not in uri.removeprefix("s3://")):
        return UserError(
            f"{uri}: the bucket {bucket!r} does not exist; check its name and AWS_ENDPOINT_URL"
        )
    if code in EXPIRED:
        return UserError(
            f"{uri}: the credentials have expired ({code}); renew them, then run the same "
            "command again"
        )
    if code in OF_ALL:
        return UserError(
            f"{uri}: access denied ({code}); check the credentials, the clock, the bucket and its "
            "policy"
        )
    status, text = _answer(error)
    if code == "InvalidObjectState":
        return ObjectError.of(
            uri, f"cannot be read: it is in an archive tier ({code}); restore the object"
        )
    if code not in PASSING and (code.startswith("KMS.") or (code in DENIED and _by_kms(text))):
        return ObjectError.of(
            uri, f"cannot be read: its encryption key cannot be used ({code}); check the key"
        )
    if code in OF_THE_OBJECT:
        return ObjectError.of(uri, f"cannot be read: storage refuses this object ({code})")
    if code in DENIED or (400 <= status < 500 and code not in PASSING):
        what = "access denied" if code in DENIED else "storage refuses the request"
        refused = RefusedError(
            f"{uri}: {what} ({code}); check the credentials and the bucket policy"
        )
        refused.code = code
        return refused
    if isinstance(error, PermissionError):
        return UserError(
            f"{uri}: access denied; check the permissions and whether the credentials have expired"
        )
    return UserError(
        f"{uri}: storage cannot be reached ({code or type(error).__name__}); "
        "check the network and AWS_ENDPOINT_URL, then run the same command again"
    )


def _in_words(error: OSError) -> str:
    if error.errno == errno.ELOOP:
        return "the link leads back to itself"
    return os.strerror(error.errno or 0).lower()


def _by_kms(message: str) -> bool:
    """Whether the message of a denial names the key management service."""
    return "kms" in message.lower()
