"""The methods that ask for chat completions: the same signatures, checks and boundary for every kind of provider."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from groq_provider.call.boundary import public
from groq_provider.cancel import CancelToken
from groq_provider.config import Timeouts
from groq_provider.errors import ConfigurationError, InvalidRequestError
from groq_provider.types.request import LLMRequest, refuse_stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from typing_extensions import Unpack

    from groq_provider.bulk.run import BulkRun
    from groq_provider.types.messages import Message
    from groq_provider.types.request_fields import RequestFields
    from groq_provider.types.response import LLMResponse

    Prompt = str | Message | Sequence[Message | Mapping[str, Any]] | LLMRequest
    Timeout = float | str | Timeouts | None
    Extra = Mapping[str, Any] | None

__all__ = ["Completions", "check_cancel", "timeouts_of"]

S = TypeVar("S")


class Completions(Generic[S]):
    """The base of providers: the methods that ask for chat completions, with streams of class *S*.

    A subclass answers one request: it must implement ``_generate``, ``_stream`` and ``_answer_item``.
    """

    @public
    def generate(
        self,
        prompt: Prompt | None = None,
        *,
        timeout: Timeout = None,
        cancel: CancelToken | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        extra_query: Mapping[str, Any] | None = None,
        **fields: Unpack[RequestFields],
    ) -> LLMResponse:
        """Return a whole answer.

        The call waits for a place in the rate limits, sends the request, and tries again where that is safe, all within *timeout*.

        Args:
            prompt: A text, messages, or a request. You can also give messages as ``messages=``.
            timeout: Seconds for the whole call, waiting and retries included, a duration such as ``"30s"``, or
                :class:`~groq_provider.Timeouts`; ``None`` takes the configured limits.
            cancel: A token with which any thread can end the call, wherever it waits.
            extra_headers: Header fields for this request. You cannot replace ``Authorization``.
            extra_body: Body fields that this version does not know; they override all others.
            extra_query: Query parameters.
            fields: Request fields, which override those of a request; :class:`~groq_provider.LLMRequest` describes each: ``messages``, ``model``, ``max_completion_tokens``, ``max_tokens``, ``temperature``,
                ``top_p``, ``n``, ``stop``, ``seed``, ``stream``, ``stream_options``, ``tools``, ``tool_choice``,
                ``parallel_tool_calls``, ``response_format``, ``reasoning_format``, ``include_reasoning``,
                ``reasoning_effort``, ``service_tier``, ``disable_tool_validation``, ``documents``,
                ``citation_options``, ``search_settings``, ``include_domains``, ``exclude_domains``,
                ``compound_custom``, ``user``, ``frequency_penalty``, ``presence_penalty``, ``logit_bias``,
                ``logprobs``, ``top_logprobs``, ``metadata``, ``store``, ``functions``, ``function_call``, ``debug``,
                ``id``, ``custom_id``, ``provider_metadata``.

        Raises:
            InvalidRequestError: A value is wrong; nothing was sent.
            APIStatusError: The service refused the request; the subclass tells the cause.
            RateLimitTimeoutError: The wait for the rate limit would be longer than *timeout* allows.
            TransportError: No answer came.
            DeadlineExceededError: The time is up.
            RequestCancelledError: The call was cancelled.
        """
        if fields:
            refuse_stream(fields)
        request = LLMRequest.of(prompt, **fields)
        return self._generate(request, timeout, cancel, extra_headers, extra_body, extra_query)

    @public
    def generate_stream(
        self,
        prompt: Prompt | None = None,
        *,
        timeout: Timeout = None,
        cancel: CancelToken | None = None,
        extra_headers: Mapping[str, str] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        extra_query: Mapping[str, Any] | None = None,
        **fields: Unpack[RequestFields],
    ) -> S:
        """Return a stream that gives the answer while the model writes it.

        The request is sent now, and a refusal of the service is raised here. Arguments and errors are those of :meth:`generate`. You should
        use the stream as a context manager, so that leaving it early frees the connection.

        If the stream ends early, ``next()`` raises the error, and its ``partial`` holds the part that had arrived. You should catch
        :class:`~groq_provider.GroqProviderError`: after the first text it is mostly a ``StreamError``, but it may also be a time limit, or
        the refusal of a retry.
        """
        request = LLMRequest.of(prompt, **fields)
        return self._stream(request, timeout, cancel, extra_headers, extra_body, extra_query)

    @public
    def generate_many(
        self,
        requests: Iterable[Prompt],
        *,
        max_workers: int | Literal["auto"] = 8,
        ordered: bool = True,
        timeout: Timeout = None,
        cancel: CancelToken | None = None,
        **fields: Unpack[RequestFields],
    ) -> BulkRun:
        """Answer many requests by threads, and return an iterator of the results.

        Args:
            requests: Prompts, messages or requests, as any iterable. It is read as far as needed, so it can be endless.
            max_workers: The number of threads, at least 1. ``"auto"`` finds the number that the service can use, from 4 at the beginning
                to 256: it adds threads while all are busy and answers come as quickly as with few, and removes threads after a 429 or 498,
                or when answers become slow. ``BulkRun.workers`` tells the number.
            ordered: Whether results come in the order of the input; if not, they come as they finish.
            timeout: The time limits of each item; as for :meth:`generate`.
            cancel: A token that ends the whole run.
            fields: Request fields for every item.

        Returns:
            An iterator of :class:`~groq_provider.BulkSuccess` and :class:`~groq_provider.BulkFailure`, both of them
            :class:`~groq_provider.BulkResult`. An item that fails is a result with an ``error``, which you should check; the run goes on.
        """
        # A value that is wrong for every item raises one error, here.
        refuse_stream(fields)
        self._check_for_all(LLMRequest.of("x", **fields))
        limits = self._timeouts(timeout)
        check_cancel(cancel)
        from groq_provider.bulk.run import BulkRun

        def answer(request: LLMRequest, token: CancelToken) -> LLMResponse:
            return self._answer_item(request, timeout=limits, cancel=token)

        return BulkRun(requests, answer, fields=dict(fields), max_workers=max_workers, ordered=ordered, cancel=cancel)

    # --- for subclasses to implement ----------------------------------------------------------------------------------------

    def _generate(  # noqa: PLR0917 - private, and called with all of them
        self,
        request: LLMRequest,
        timeout: Timeout,
        cancel: CancelToken | None,
        extra_headers: Mapping[str, str] | None,
        extra_body: Extra,
        extra_query: Extra,
    ) -> LLMResponse:
        raise NotImplementedError

    def _stream(  # noqa: PLR0917 - as above
        self,
        request: LLMRequest,
        timeout: Timeout,
        cancel: CancelToken | None,
        extra_headers: Mapping[str, str] | None,
        extra_body: Extra,
        extra_query: Extra,
    ) -> S:
        raise NotImplementedError

    def _answer_item(self, request: LLMRequest, *, timeout: Timeouts | None, cancel: CancelToken | None) -> LLMResponse:
        """Return the answer to one item of a bulk run, of class batch in the limiter."""
        raise NotImplementedError

    def _check_for_all(self, request: LLMRequest) -> None:
        """Raise an error for fields that no item of a bulk run may have."""

    def _timeouts(self, timeout: Timeout) -> Timeouts | None:
        return timeouts_of(timeout)


def timeouts_of(timeout: Timeout) -> Timeouts | None:
    """Return the time limits for the argument ``timeout``.

    Raises:
        InvalidRequestError: The argument is not a time limit.
    """
    try:
        return Timeouts.of(timeout)
    except ConfigurationError as error:
        raise InvalidRequestError(error.message) from None


def check_cancel(cancel: object) -> None:
    """Check the argument ``cancel``.

    Raises:
        InvalidRequestError: The argument is neither a token nor ``None``.
    """
    if cancel is not None and not isinstance(cancel, CancelToken):
        raise InvalidRequestError(f"cancel must be a CancelToken, not {type(cancel).__name__}")
