"""A synchronous, thread-safe client for the Groq Cloud API.

>>> from groq_provider import GroqProvider
>>> with GroqProvider(api_key="gsk_example") as provider:
...     provider.get_name()
'Groq'

The packages and modules, each of which begins with its own map or its one job:

- ``provider``, ``fallback``: the providers: the classes that application code calls
- ``call``: one call: its attempts, deadlines, stream, retries, circuit breaker
- ``resources``: endpoints other than chat completions
- ``bulk``: many requests at once, with adaptive concurrency
- ``ratelimit``: the limiter, its buckets, and stores shared by processes
- ``transport``: connections: HTTP/1.1, HTTP/2, sessions, permits
- ``wire``: bytes, JSON, headers and errors of the service, as pure functions
- ``types``: requests, answers and other values
- ``config``: settings from arguments, files and the environment
- ``errors``, ``protocols``: the exceptions; the protocols between the parts
- ``catalog``, ``health``: the service's models; health checks
- ``latency``, ``clock``: statistics of durations; the clock
- ``cancel``, ``_sync``: cancellation; the explanation of interrupts, finalizers and forks
- ``cli``, ``testing``: the command line; an emulator of the service for your tests

Names are loaded on first use: importing the package is fast, and programs that only handle values never load an HTTP library.
"""

from __future__ import annotations

import importlib
import logging
from itertools import chain
from typing import TYPE_CHECKING, Any

from groq_provider._version import __version__

if TYPE_CHECKING:
    from groq_provider.bulk.run import BulkFailure, BulkResult, BulkRun, BulkSuccess
    from groq_provider.call.breaker import BreakerPolicy, CircuitBreaker
    from groq_provider.call.raw import BodyIterator, RawResponse
    from groq_provider.call.stream import ResponseStream
    from groq_provider.cancel import CancelToken
    from groq_provider.catalog import MODEL_MIGRATION, Catalogue, default_catalogue
    from groq_provider.clock import Clock, SystemClock
    from groq_provider.config import ProviderConfig, RateLimits, RetryPolicy, Timeouts
    from groq_provider.config.defaults import DEFAULT_MODEL, FAST_MODEL, ProviderType
    from groq_provider.errors import (
        APIConnectionError,
        APIStatusError,
        AuthenticationError,
        CircuitOpenError,
        ConfigurationError,
        ConnectTimeoutError,
        ContextTooLongError,
        DeadlineExceededError,
        GroqProviderError,
        IncompleteResponseError,
        InvalidRequestError,
        JournalError,
        JournalInputChangedError,
        JournalLockedError,
        JSONValidationFailedError,
        ModelDecommissionedError,
        ModelNotFoundError,
        NotFoundError,
        OutputTruncatedError,
        OverloadedError,
        PermissionDeniedError,
        PoolTimeoutError,
        ProtocolError,
        ProviderClosedError,
        ProviderDisabledError,
        ProviderUnavailableError,
        ProxyError,
        RateLimitedError,
        RateLimitTimeoutError,
        ReadTimeoutError,
        RedirectRefusedError,
        RequestCancelledError,
        RequestTooLargeError,
        ResponseDecodeError,
        ResponseError,
        ResponseTooLargeError,
        StreamError,
        StreamIdleTimeoutError,
        StreamInterruptedError,
        StreamProtocolError,
        TLSError,
        ToolUseFailedError,
        TransportError,
    )
    from groq_provider.fallback.fallback_provider import FallbackProvider
    from groq_provider.fallback.fallback_stream import FallbackStream
    from groq_provider.latency import LatencyTracker
    from groq_provider.protocols import LatencyRecorder, Provider, RateLimiter, Reservation
    from groq_provider.provider import GroqProvider
    from groq_provider.ratelimit.limiter import TokenBucketRateLimiter
    from groq_provider.ratelimit.store.file import FileStore
    from groq_provider.ratelimit.store.protocol import RateLimitStore
    from groq_provider.ratelimit.store.redis import RedisStore
    from groq_provider.types.activity import (
        Annotation,
        BrowserResult,
        Chart,
        ChartElement,
        CodeResult,
        DocumentCitation,
        ExecutedTool,
        FunctionCitation,
        MCPTool,
        MCPToolList,
        ModelUsage,
        SearchResult,
        SearchResults,
        UsageBreakdown,
    )
    from groq_provider.types.messages import Message
    from groq_provider.types.model_info import ModelCapability, ModelInfo, ModelLimits, ModelPricing, PerformanceProfile
    from groq_provider.types.options import Document, JSONSchemaFormat, ResponseFormat, SearchSettings, StreamOptions
    from groq_provider.types.parts import (
        ContentPart,
        DocumentPart,
        ImagePart,
        OtherPart,
        TextPart,
        Tool,
        ToolCall,
        ToolFunction,
    )
    from groq_provider.types.request import LLMRequest
    from groq_provider.types.request_fields import RequestFields
    from groq_provider.types.response import (
        Attempt,
        HTTPInfo,
        LLMResponse,
        RateLimitInfo,
        ResponseChunk,
        Timing,
        ToolCallDelta,
        Usage,
        XGroq,
        XGroqUsage,
    )
    from groq_provider.types.status import (
        LatencyMetrics,
        MeasuredProfile,
        ProviderHealth,
        RateLimitStatus,
        RateLimitWindow,
    )

#: Where each name lives. A test holds this, ``__all__`` and the imports above against each other.
_HOMES = {
    "config.defaults": "DEFAULT_MODEL FAST_MODEL ProviderType",
    "call.breaker": "BreakerPolicy CircuitBreaker",
    "call.raw": "BodyIterator RawResponse",
    "bulk.run": "BulkFailure BulkResult BulkRun BulkSuccess",
    "cancel": "CancelToken",
    "catalog": "MODEL_MIGRATION Catalogue default_catalogue",
    "clock": "Clock SystemClock",
    "config": "ProviderConfig RateLimits RetryPolicy Timeouts",
    "errors": (
        "APIConnectionError APIStatusError AuthenticationError CircuitOpenError ConfigurationError ConnectTimeoutError "
        "ContextTooLongError DeadlineExceededError GroqProviderError IncompleteResponseError InvalidRequestError "
        "JSONValidationFailedError JournalError JournalInputChangedError JournalLockedError ModelDecommissionedError "
        "ModelNotFoundError NotFoundError OutputTruncatedError OverloadedError PermissionDeniedError PoolTimeoutError ProtocolError "
        "ProviderClosedError ProviderDisabledError ProviderUnavailableError ProxyError RateLimitTimeoutError RateLimitedError "
        "ReadTimeoutError RedirectRefusedError RequestCancelledError RequestTooLargeError ResponseDecodeError ResponseError "
        "ResponseTooLargeError StreamError StreamIdleTimeoutError StreamInterruptedError StreamProtocolError TLSError "
        "ToolUseFailedError TransportError"
    ),
    "fallback.fallback_provider": "FallbackProvider",
    "fallback.fallback_stream": "FallbackStream",
    "latency": "LatencyTracker",
    "protocols": "LatencyRecorder Provider RateLimiter Reservation",
    "provider": "GroqProvider",
    "ratelimit.store.file": "FileStore",
    "ratelimit.limiter": "TokenBucketRateLimiter",
    "ratelimit.store.redis": "RedisStore",
    "ratelimit.store.protocol": "RateLimitStore",
    "call.stream": "ResponseStream",
    "types.request_fields": "RequestFields",
    "types.messages": "Message",
    "types.model_info": "ModelCapability ModelInfo ModelLimits ModelPricing PerformanceProfile",
    "types.options": "Document JSONSchemaFormat ResponseFormat SearchSettings StreamOptions",
    "types.parts": "ContentPart DocumentPart ImagePart OtherPart TextPart Tool ToolCall ToolFunction",
    "types.request": "LLMRequest",
    "types.activity": (
        "Annotation BrowserResult Chart ChartElement CodeResult DocumentCitation ExecutedTool FunctionCitation MCPTool MCPToolList "
        "ModelUsage SearchResult SearchResults UsageBreakdown"
    ),
    "types.response": "Attempt HTTPInfo LLMResponse RateLimitInfo ResponseChunk Timing ToolCallDelta Usage XGroq XGroqUsage",
    "types.status": "LatencyMetrics MeasuredProfile ProviderHealth RateLimitStatus RateLimitWindow",
}
_COMPLETED = ("types.messages", "types.request", "types.response")
_HOME_OF = dict(chain.from_iterable(dict.fromkeys(names.split(), module).items() for module, names in _HOMES.items()))

__all__ = [
    "DEFAULT_MODEL",
    "FAST_MODEL",
    "MODEL_MIGRATION",
    "APIConnectionError",
    "APIStatusError",
    "Annotation",
    "Attempt",
    "AuthenticationError",
    "BodyIterator",
    "BreakerPolicy",
    "BrowserResult",
    "BulkFailure",
    "BulkResult",
    "BulkRun",
    "BulkSuccess",
    "CancelToken",
    "Catalogue",
    "Chart",
    "ChartElement",
    "CircuitBreaker",
    "CircuitOpenError",
    "Clock",
    "CodeResult",
    "ConfigurationError",
    "ConnectTimeoutError",
    "ContentPart",
    "ContextTooLongError",
    "DeadlineExceededError",
    "Document",
    "DocumentCitation",
    "DocumentPart",
    "ExecutedTool",
    "FallbackProvider",
    "FallbackStream",
    "FileStore",
    "FunctionCitation",
    "GroqProvider",
    "GroqProviderError",
    "HTTPInfo",
    "ImagePart",
    "IncompleteResponseError",
    "InvalidRequestError",
    "JSONSchemaFormat",
    "JSONValidationFailedError",
    "JournalError",
    "JournalInputChangedError",
    "JournalLockedError",
    "LLMRequest",
    "LLMResponse",
    "LatencyMetrics",
    "LatencyRecorder",
    "LatencyTracker",
    "MCPTool",
    "MCPToolList",
    "MeasuredProfile",
    "Message",
    "ModelCapability",
    "ModelDecommissionedError",
    "ModelInfo",
    "ModelLimits",
    "ModelNotFoundError",
    "ModelPricing",
    "ModelUsage",
    "NotFoundError",
    "OtherPart",
    "OutputTruncatedError",
    "OverloadedError",
    "PerformanceProfile",
    "PermissionDeniedError",
    "PoolTimeoutError",
    "ProtocolError",
    "Provider",
    "ProviderClosedError",
    "ProviderConfig",
    "ProviderDisabledError",
    "ProviderHealth",
    "ProviderType",
    "ProviderUnavailableError",
    "ProxyError",
    "RateLimitInfo",
    "RateLimitStatus",
    "RateLimitStore",
    "RateLimitTimeoutError",
    "RateLimitWindow",
    "RateLimitedError",
    "RateLimiter",
    "RateLimits",
    "RawResponse",
    "ReadTimeoutError",
    "RedirectRefusedError",
    "RedisStore",
    "RequestCancelledError",
    "RequestFields",
    "RequestTooLargeError",
    "Reservation",
    "ResponseChunk",
    "ResponseDecodeError",
    "ResponseError",
    "ResponseFormat",
    "ResponseStream",
    "ResponseTooLargeError",
    "RetryPolicy",
    "SearchResult",
    "SearchResults",
    "SearchSettings",
    "StreamError",
    "StreamIdleTimeoutError",
    "StreamInterruptedError",
    "StreamOptions",
    "StreamProtocolError",
    "SystemClock",
    "TLSError",
    "TextPart",
    "Timeouts",
    "Timing",
    "TokenBucketRateLimiter",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolFunction",
    "ToolUseFailedError",
    "TransportError",
    "Usage",
    "UsageBreakdown",
    "XGroq",
    "XGroqUsage",
    "__version__",
    "default_catalogue",
]

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        home = importlib.import_module(f".{module}", __name__)
    except AttributeError as error:  # ``from groq_provider import X`` would replace an AttributeError by "cannot import name" and drop the cause
        raise ImportError(f"{__name__}.{module} cannot be loaded: {error}", name=f"{__name__}.{module}") from error
    exported = getattr(home, name)
    if module in _COMPLETED:
        # A caller who imports these classes from here may resolve their annotations. The library itself imports the modules directly.
        importlib.import_module(".types", __name__).load_annotations()
    globals()[name] = exported
    return exported


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
