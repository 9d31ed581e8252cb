"""Errors as text for a user, with advice on what to do."""

from __future__ import annotations

import groq_provider as g
from groq_provider.cli.text import one_line

__all__ = ["format_error"]

# The first matching class counts: put a subclass before its base. Leave out errors that tell in their message what to do.
_ADVICE: tuple[tuple[type[g.GroqProviderError], str], ...] = (
    (g.AuthenticationError, "Check GROQ_API_KEY; keys are made at https://console.groq.com/keys."),
    (g.PermissionDeniedError, "Look at the project's model permissions and spend limit at https://console.groq.com."),
    (g.ModelNotFoundError, "List what your key may use with: groq-provider models --refresh"),
    (g.ModelDecommissionedError, "List the models of today with: groq-provider models"),
    (g.NotFoundError, "Check GROQ_BASE_URL: the server there has no such endpoint."),
    (g.RateLimitTimeoutError, "Try again later, or allow more time."),
    (g.RateLimitedError, "Wait, or raise the limit of your organisation at https://console.groq.com/settings/limits."),
    (g.ContextTooLongError, "Send less text, or lower --max-tokens."),
    (g.RequestTooLargeError, "Send less text, or lower --max-tokens: the service counts it in full beforehand."),
    (g.ToolUseFailedError, "Try again: the model wrote a call that the service refused."),
    (g.JSONValidationFailedError, "Try again: the model wrote JSON that the service refused."),
    (g.OverloadedError, "Try again in a moment; https://groqstatus.com shows known trouble."),
    (g.ProviderUnavailableError, "Try again in a moment; https://groqstatus.com shows known trouble."),
    (g.TLSError, "Behind a proxy that inspects traffic, set REQUESTS_CA_BUNDLE to its certificates."),
    (g.ProxyError, "Check HTTPS_PROXY and NO_PROXY."),
    (g.RedirectRefusedError, "Check GROQ_BASE_URL: it must name the API itself."),
    (g.ProtocolError, "Check GROQ_BASE_URL: the server there does not speak HTTP correctly."),
    (g.ResponseError, "Check GROQ_BASE_URL; if it is right, try again."),
    (g.TransportError, "Check the network and GROQ_BASE_URL, then try again."),
    (g.StreamError, "The part that arrived is above; try again for the rest."),
    (g.DeadlineExceededError, "Try again, or allow more time."),
    (g.InvalidRequestError, "Change the request and try again."),
)


def format_error(error: g.GroqProviderError) -> str:
    """Return the error's message on one line and, unless the message says so itself, what to do on a second."""
    text = one_line(error) or type(error).__name__
    if error.retry_after:
        text += f" (retry after {error.retry_after:.3g} s)"
    advice = next((advice for kind, advice in _ADVICE if isinstance(error, kind)), None)
    replacement = getattr(error, "replacement", None)
    if replacement:
        advice = f"Use --model {one_line(replacement)}."
    return f"groq-provider: {text}" + (f"\n  {advice}" if advice else "")
