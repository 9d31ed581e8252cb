"""The fault matrix as data, and where the library does otherwise for a reason that is written here.

Letters as in the design notes. Retry: ``Y`` within attempts, budget and deadline, ``1`` once, ``N`` no, ``C`` as ``Y`` before the
first chunk and ``N`` after it, ``-`` nothing to retry. Connection: ``D`` dropped, ``R`` kept, ``-`` none. Reservation: ``F`` given back,
``T`` tokens given back, ``A`` settled by usage, ``E`` kept as estimated, ``P`` settled by prompt and what had come. Where several
are right, the row has all of them.
"""

from __future__ import annotations

import attrs


@attrs.frozen
class Row:
    """What a fault should come to."""

    errors: frozenset[str] = attrs.field(converter=lambda text: frozenset(text.split()))
    retry: str
    connection: str
    reservation: str


_CUT = Row("StreamInterruptedError IncompleteResponseError", "C", "D", "P")
_FINE = Row("", "-", "R", "A")

MATRIX: dict[str, Row] = {
    "1": Row("APIConnectionError", "Y", "-", "F"),
    "2": Row("APIConnectionError", "Y1", "-", "F"),
    "3": Row("ConnectTimeoutError", "Y", "-D", "F"),
    "4": Row("ConnectTimeoutError", "Y-", "-D", "FA"),
    "5": Row("APIConnectionError", "Y", "D", "FE?"),
    "6": Row("TLSError", "N", "D", "F"),
    "7": Row("ConnectTimeoutError", "Y", "D", "F"),
    "8": Row("ProxyError", "YN", "D-", "F"),
    "9": Row("PoolTimeoutError", "Y", "-", "F"),
    "10": Row("ConfigurationError", "N", "-", "-"),
    "11": Row("", "-", "R", "A"),
    "12": Row("APIConnectionError", "1Y", "D", "EA"),
    "13": Row("APIConnectionError", "Y", "D", "E"),
    "14": Row("RequestTooLargeError APIConnectionError", "NY", "D", "TE"),
    "15": Row("ProtocolError", "Y", "D", "E"),
    "16": Row("StreamInterruptedError ResponseDecodeError", "Y", "D", "E"),
    "17": Row("ReadTimeoutError", "Y", "D", "E"),
    "18": Row("ReadTimeoutError", "Y", "D", "E"),
    "19": Row("ProtocolError", "1", "D", "E"),
    "20": Row("ProtocolError", "1", "D", "E"),
    "21": Row("ProtocolError", "1", "D", "E"),
    "22": Row("", "-", "D", "A"),
    "23": Row("", "-", "D", "A"),
    "24": Row("ResponseDecodeError", "1", "R", "T"),
    "25": Row("IncompleteResponseError", "Y", "D", "E"),
    "26": Row("ResponseDecodeError", "1", "D", "E"),
    "27": _CUT,
    "28": Row("StreamInterruptedError", "N", "D", "P"),
    "29": _CUT,
    "30": _CUT,
    "31": _CUT,
    "32": Row("StreamInterruptedError StreamIdleTimeoutError", "C", "D", "P"),
    "33": Row("StreamIdleTimeoutError", "C", "D", "P"),
    "34": Row("DeadlineExceededError StreamIdleTimeoutError", "C", "D", "P"),
    "35": Row("ProtocolError", "C", "D", "P"),
    "36": Row("ProtocolError", "C", "D", "P"),
    "37": Row("ResponseDecodeError", "1", "D", "E"),
    "38": Row("IncompleteResponseError", "Y", "D", "E"),
    "39": Row("ResponseTooLargeError", "N", "D", "E"),
    "40": Row("ResponseTooLargeError", "N", "D", "E"),
    "41": _FINE,
    "42": _FINE,
    "43": Row("StreamProtocolError", "N-", "R", "A"),
    "44": _FINE,
    "45": _FINE,
    "46": _FINE,
    "47": _FINE,
    "48": Row("StreamInterruptedError", "C-", "D", "PA"),
    "49": Row("ResponseTooLargeError", "N", "D", "P"),
    "50": Row("StreamProtocolError", "C", "D", "P"),
    "51": Row("StreamProtocolError ResponseDecodeError", "1", "R", "E"),
    "52": _FINE,
    "53": _FINE,
    "54": Row("StreamProtocolError ResponseDecodeError", "1", "R", "E"),
    "55": _FINE,
    # As its status; a bare text interrupts.
    "56": Row(
        "ProviderUnavailableError RateLimitedError ToolUseFailedError JSONValidationFailedError InvalidRequestError "
        "AuthenticationError StreamInterruptedError OverloadedError",
        "YN",
        "RD",
        "P",
    ),
    "57": Row("", "-", "RD", "A"),
    "58": Row("ResponseDecodeError", "1-", "R", "AE"),
    "59": Row("", "-", "R", "E"),
    "60": Row(
        "InvalidRequestError NotFoundError ContextTooLongError ToolUseFailedError JSONValidationFailedError "
        "ModelDecommissionedError ModelNotFoundError",
        "N",
        "R",
        "T",
    ),
    "61": Row("AuthenticationError PermissionDeniedError", "N", "R", "T"),
    "62": Row("RequestTooLargeError", "N", "RD", "T"),
    "63": Row("RateLimitedError", "Y", "R", "T"),
    "64": Row("RateLimitedError", "Y", "R", "T"),
    "65": Row("RateLimitedError", "N", "R", "T"),
    "65b": Row("RequestTooLargeError", "N", "R", "T"),
    "66": Row("OverloadedError", "Y", "R", "T"),
    "67": Row("APIStatusError", "Y", "D", "T"),
    "68": Row("ProviderUnavailableError OverloadedError", "Y", "RD", "T"),
    "69": Row("ProviderUnavailableError", "Y", "RD", "T"),
    "70": Row("RedirectRefusedError", "N", "R", "T"),
    # As the header says, whatever the status.
    "71": Row("OverloadedError RateLimitedError InvalidRequestError", "YN", "R", "T"),
}


@attrs.frozen
class Deviation:
    """Where rows do not follow the matrix to the letter, in what, and why.

    Attributes:
        ids: A regular expression for the ids of the rows.
        what: Of ``error``, ``retry``, ``connection``, ``reservation``.
        why: The reason.
    """

    ids: str
    what: frozenset[str] = attrs.field(converter=lambda text: frozenset(text.split()))
    why: str


DEVIATIONS = [
    Deviation(
        r"(3|4|7)-deadline|1[78]-deadline(-stream)?|34-.*-deadline",
        "error retry",
        "The caller's own limit: the matrix says so in words (17), and there is no time left for another try.",
    ),
    Deviation(r"4-one-dead", "connection", "The address that works gives a connection like any other."),
    Deviation(r"11", "connection", "The stale connection is dropped; the fresh one that serves the call is kept."),
    Deviation(
        r"16-.*",
        "error",
        "The end comes inside the head, so there is no answer of which a body could be decoded or interrupted.",
    ),
    Deviation(
        r"1[78]-(plain|stream)|3[34]-(plain|before)|32-deaf-before",
        "retry",
        "An answer that does not come in time, or whose first token does not, may have been made and billed: the caller decides.",
    ),
    Deviation(
        r"24-.*-stream|24-empty-event-stream|37-stream|58-page-for-a-stream|3[56]-.*(before|after)",
        "error",
        "In a stream what cannot be decoded, framing included, is a StreamProtocolError with the partial answer.",
    ),
    Deviation(
        r"(27|29-.*|3[3-6].*)-plain(-deadline)?|33-plain|34-plain",
        "reservation error",
        "Of a plain answer nothing can be counted before it is whole: the estimate stays, and the error is its own (25).",
    ),
    Deviation(
        r"30-.*|48.*",
        "connection",
        "The HTTP body ended as it should, whatever is missing in it: the connection is in a known state and serves on.",
    ),
    Deviation(r"3\d-but-finish-reason", "reservation", "The answer is whole, and says what it used."),
    Deviation(
        r"(32-deaf|33|34)-before",
        "error",
        "Before the first chunk it is the limit for the first token that ends the wait, under its own name.",
    ),
    Deviation(
        r"(37|38|39|40)-stream.*|5[14]-(?!.*(plain|once)).*|43-structure|58-page-for-a-stream|58-json-error-for-a-stream",
        "reservation",
        "A stream that fails is settled by what had come, however it fails.",
    ),
    Deviation(r"38-stream", "error retry", "After a chunk was given out it is an interruption (28)."),
    Deviation(
        r"38-(chunked|deflate|whole)|39",
        "error retry",
        "No coding was asked for, so one is refused by its name before anything of it is unpacked; the server may do better once.",
    ),
    Deviation(
        r"5[14]-(?!.*(plain|once)).*|43-structure",
        "connection retry",
        "In the middle of a stream (50): the rest of the body is not read for it, and after a chunk nothing is repeated.",
    ),
    Deviation(
        r"41-close-delimited",
        "connection",
        "A body that ends with its connection leaves none.",
    ),
    Deviation(r"48-error", "error", "A complete error event that ends the body stands for its status (56)."),
    Deviation(r"55-partial", "error retry reservation", "A stream that ends before its finish reason (30)."),
    Deviation(
        r"56-(at-first-429|good-status-plain)",
        "reservation",
        "All that the service says is a refusal, like that of a status (63): nothing was made.",
    ),
    Deviation(
        r"56-good-status-plain-text", "reservation error", "As above; and words without code and status have no class."
    ),
    Deviation(
        r"63-(go-long|huge|beyond-.*)|68-retry-after-too-long",
        "retry",
        "The matrix says so in words (63): a hint beyond the cap or the deadline is raised at once.",
    ),
]

#: Cases whose tests stand in other modules, as paths in `tests`.
ELSEWHERE = {
    "73": [
        "process/test_processes.py::test_forks_share_no_socket",
        "process/test_processes.py::test_closing_child_spares_parents_calls",
        "process/test_processes.py::test_limits_live_on_in_child",
        "unit/test_ratelimit.py::test_a_fork_starts_anew",
    ],
    "76": ["unit/test_ratelimit.py::test_interrupted_limiter_leaves_nothing"],
}
