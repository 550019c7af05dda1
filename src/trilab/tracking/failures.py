"""What a store's error means: it may pass, the store refuses this one thing, or the user has to put something right."""

import re
import sqlite3

from mlflow.exceptions import MlflowException, RestException
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from trilab.errors import UserError
from trilab.tracking.secrets import redacted

#: MLflow's codes for what has nothing to do with the request itself. Credentials may expire and be renewed.
_PASSING = {
    "TEMPORARILY_UNAVAILABLE",
    "INTERNAL_ERROR",
    "REQUEST_LIMIT_EXCEEDED",
    "RESOURCE_EXHAUSTED",
    "DEADLINE_EXCEEDED",
    "CANCELLED",
    "ABORTED",
    "UNAUTHENTICATED",
    "CUSTOMER_UNAUTHORIZED",
    "PERMISSION_DENIED",
    "ENDPOINT_NOT_FOUND",  # a proxy whose server is away
}
#: What SQLite says when others write, or the disk takes no more.
_BUSY = ("locked", "busy", "disk is full", "disk i/o error", "no space left")
#: What databases on servers say when the user is wrong, and not the network.
_WRONG = ("authentication", "access denied", "does not exist", "unknown database", "no password", "login failed")


class Unreachable(UserError):
    """The store does not answer now; nothing says that the user named it wrongly."""


class Gone(Exception):
    """The run, or its experiment, was deleted in the store."""


class Refused(Exception):
    """The store takes this request neither now nor later."""


def is_refusal(error: BaseException) -> bool:
    """Whether the same request would fail again for ever: the store does not take it, or it cannot be made."""
    if isinstance(error, Refused | TypeError | LookupError | AttributeError | AssertionError | OverflowError):
        return True
    if isinstance(error, sqlite3.IntegrityError | sqlite3.DataError):
        return True
    if isinstance(error, MlflowException) and not isinstance(error.__cause__ or error.__context__, SQLAlchemyError):
        return str(error.error_code) not in _PASSING
    return False


def is_outage(error: BaseException) -> bool:
    """Whether a first contact failed for a reason that may pass without the user."""
    text = str(error).lower()
    if isinstance(error, DBAPIError | sqlite3.Error) or "sqlite3." in text or "(psycopg" in text or "(pymysql" in text:
        if "sqlite3." in text or isinstance(error, sqlite3.Error):
            return any(word in text for word in _BUSY)
        return "operationalerror" in text and not any(word in text for word in _WRONG)
    if isinstance(error, RestException):
        return str(error.error_code) in _PASSING - {"UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED", "PERMISSION_DENIED"}
    if isinstance(error, MlflowException):
        return "failed with exception" in text or "timeout" in text or "failed with error code 5" in text
    return False


def reason(error: BaseException) -> str:
    """An error in one line, without statements of SQL and without secrets."""
    text = redacted(" ".join(str(error).partition("[SQL:")[0].split()))
    if "failed with exception" in text or "timeout exception" in text:  # requests' errors, wrapped three times
        system = re.search(r"\[Errno -?\d+\] ([\w ]+)", text)
        return system[1] if system else "no answer" if "timed out" in text.lower() else text[:120]
    return text[:300] or type(error).__name__
