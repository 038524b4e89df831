"""Every error of tally, in one tree.

    TallyError
    ├── ConfigError            the operator's file is wrong: every mistake, with file, key and reason
    ├── RequestInvalid         400  the client's request is wrong; nothing was spent
    │   ├── BodyTooLarge       413
    │   └── BodyTooSlow        408
    ├── NotAuthenticated       401  no key, or an unknown, revoked or expired one
    ├── NotAllowed             403  a good key that may not do this
    ├── NotFound               404  no such path or model
    ├── BudgetExceeded         402  not even one sample can be paid
    ├── LowConfidence          422  the answer is less sure than the request wants it
    ├── RateLimited            429  too many requests; says when to come back
    ├── ClientGone             499  nobody is left to be answered; the ledger alone hears of it
    ├── LedgerUnavailable      503  the account cannot be kept, so nothing is sold
    ├── Overloaded             503  shutting down or saturated
    └── UpstreamError               the provider's own error, its status and message kept
        ├── UpstreamUnreachable 502
        ├── UpstreamMalformed   502
        └── UpstreamTimeout    504

Each maps to OpenAI's error envelope at the HTTP edge (`proxy.api.wire`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_LONGEST_WAIT_S = 60.0


class TallyError(Exception):
    """The root. `status`, `type`, `code` and `param` are what OpenAI's envelope carries.

    `retry_after` is in seconds; `should_retry` is told to the SDKs in `x-should-retry` unless None.
    """

    status: int = 500
    type: str = "server_error"
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None
    should_retry: bool | None = None

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if param is not None:
            self.param = param
        if code is not None:
            self.code = code


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a configuration: the file, the key's path in it (`model_list[0].model_name`), and why."""

    file: str
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.key}: {self.reason}" if self.key else f"{self.file}: {self.reason}"


class ConfigError(TallyError):
    """The configuration is wrong; `problems` names every mistake."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = tuple(problems)


class RequestInvalid(TallyError):
    """The request cannot be served as it stands."""

    status = 400
    type = "invalid_request_error"


class BodyTooLarge(RequestInvalid):
    """The request's body is over the limit."""

    status = 413
    code = "request_too_large"


class BodyTooSlow(RequestInvalid):
    """The request's body did not come in time."""

    status = 408
    code = "request_timeout"


class NotAuthenticated(TallyError):
    """No key, or one that is unknown, revoked or expired."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class NotAllowed(TallyError):
    """A good key that may not do this: a blocked tenant, a model or a strategy off its list."""

    status = 403
    type = "invalid_request_error"
    code = "permission_denied"


class NotFound(TallyError):
    """No such path or model."""

    status = 404
    type = "invalid_request_error"
    code = "not_found"


class BudgetExceeded(TallyError):
    """Not even one sample can be paid. 402, which no SDK retries, unless its budget's window ends within a minute.

    `budget` tells the limit that was reached, as JSON; `retry_after` is when its window ends, in seconds from now
    (None: waiting does not help).
    """

    status = 402
    type = "budget_exceeded"
    code = "budget_exceeded"
    should_retry = False

    def __init__(
        self, message: str, *, budget: Mapping[str, object] | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.budget = budget
        self.retry_after = retry_after
        # the SDKs wait as long as they are told up to a minute; told more, they would be back within seconds
        self.should_retry = retry_after is not None and retry_after <= _LONGEST_WAIT_S


class LowConfidence(TallyError):
    """The answer is less sure than the request wants it; what it took is paid. 422, which no SDK retries."""

    status = 422
    type = "low_confidence"
    code = "low_confidence"
    param = "tally.min_confidence"
    should_retry = False


class RateLimited(TallyError):
    """Too many requests; `retry_after` seconds from now there is room. `told` are the headers that say what is left."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: float, told: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.told = dict(told or {})


class ClientGone(TallyError):
    """The client went away before it was answered."""

    status = 499
    code = "client_gone"

    def __init__(self) -> None:
        super().__init__("the client is gone")


class LedgerUnavailable(TallyError):
    """The account cannot be kept just now, so nothing is sold."""

    status = 503
    code = "ledger_unavailable"


class Overloaded(TallyError):
    """The proxy is shutting down or saturated."""

    status = 503
    code = "overloaded"


class UpstreamError(TallyError):
    """The provider answered with an error; its status, type, code, message and Retry-After (seconds) are kept."""

    type = "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        type: str | None = None,  # noqa: A002
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
        sent: bool = False,
    ) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status
        if type is not None:
            self.type = type
        self.retry_after = retry_after
        self.sent = sent
        """Whether the provider may have worked, and so may bill, before it failed."""


class UpstreamUnreachable(UpstreamError):
    """The provider could not be reached, or the connection broke."""

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message, status=502, code="upstream_unreachable", sent=sent)


class UpstreamMalformed(UpstreamError):
    """The provider's reply is not what it should be. It may well have worked and billed: what it took is not known."""

    def __init__(self, message: str) -> None:
        super().__init__(message, status=502, code="upstream_malformed", sent=True)


class UpstreamTimeout(UpstreamError):
    """The provider did not answer in time."""

    def __init__(self, message: str, *, sent: bool = True) -> None:
        super().__init__(message, status=504, code="upstream_timeout", sent=sent)
