"""`groq-provider chat`: one question, or a talk that keeps its history."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import attrs

from groq_provider import GroqProviderError, Message
from groq_provider.cli.advice import complaint
from groq_provider.cli.live import Answer, Waiting, limited
from groq_provider.cli.screen import as_data, out, out_json, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from groq_provider import GroqProvider, LLMResponse, LLMStream

__all__ = ["run"]


_INTERRUPTED = 130


def run(
    text: str | None,
    *,
    connect: Callable[[], GroqProvider],
    system: str | None,
    as_json: bool,
    fields: Mapping[str, Any],
) -> int:
    """Answer *text*, standard input for `-`, or line by line."""
    history = [] if system is None else [Message.system(system)]
    with connect() as provider:
        talk = _Talk(provider, history, as_json=as_json, fields=fields)
        if text is None:
            return _loop(talk)
        if text == "-":
            text = "" if sys.stdin is None else sys.stdin.read().rstrip()
        if not text.strip():
            say("groq-provider chat: the text is empty")
            return 2
        talk.ask(text)
    return 0


@attrs.define
class _Talk:
    """The history of a conversation, and how its answers are shown."""

    provider: GroqProvider
    history: list[Message]
    as_json: bool = attrs.field(kw_only=True)
    fields: Mapping[str, Any] = attrs.field(kw_only=True)

    def ask(self, text: str) -> None:
        """Print the answer as it comes, and keep both; a failed question leaves no trace in the history."""
        messages = [*self.history, Message.user(text)]
        with (
            Waiting(lambda: limited(self.provider, "waiting for the first token")) as sign,
            self.provider.generate_stream(messages, **self.fields) as stream,
        ):
            if not self.as_json:
                self._print(stream, sign)
            response = stream.collect()
        self.history = [*messages, response.message]
        if self.as_json:
            out_json(_data(response))
        elif sys.stderr.isatty():
            say(_summary(response))

    @staticmethod
    def _print(stream: LLMStream, sign: Waiting) -> None:
        answer = Answer()
        try:
            for chunk in stream:
                if chunk.content:
                    sign.end()
                    answer.add(chunk.content)
                elif chunk.reasoning:
                    sign.what = _thinking
        finally:
            answer.end()


def _thinking() -> str:
    return "the model thinks"


def _loop(talk: _Talk) -> int:
    """Talk until the input ends; the exit code is that of the last question.

    On a terminal Ctrl-C ends an answer, and at the prompt the talk.
    """
    code = 0
    at_terminal = sys.stdin is not None and sys.stdin.isatty()
    for line in _lines():
        if not line.strip():
            continue
        try:
            talk.ask(line)
            code = 0
        except GroqProviderError as error:
            say(complaint(error))
            code = 1
        except KeyboardInterrupt:
            if not at_terminal:
                raise
            say("\ninterrupted; this question and its answer are left out of the talk")
            code = _INTERRUPTED
    return code


def _lines() -> Iterator[str]:
    """Lines of standard input, asked for with a prompt on a terminal."""
    if sys.stdin is None or not sys.stdin.isatty():
        for line in sys.stdin or ():
            yield line.rstrip("\n")
        return
    try:
        import readline  # noqa: F401 - gives input() its history and editing
    except ImportError:
        pass  # Windows
    say("Ctrl-C ends an answer, Ctrl-D the talk.")
    while True:
        try:
            yield input("> ")
        except EOFError:
            out("")
            return


def _data(response: LLMResponse) -> dict[str, Any]:
    names = ("content", "reasoning", "model", "finish_reason", "request_id")
    return {
        **{name: getattr(response, name) for name in names},
        "usage": as_data(response.usage),
        "timing": as_data(response.timing),
    }


def _summary(response: LLMResponse) -> str:
    parts = [f"{response.usage.completion_tokens} tokens"]
    if response.timing.time_to_first_token is not None:
        parts.append(f"the first after {response.timing.time_to_first_token * 1000:.0f} ms")
    if response.timing.tokens_per_second is not None:
        parts.append(f"{response.timing.tokens_per_second:,.0f} tokens/s")
    if response.truncated:
        parts.append("cut at its length limit (--max-tokens)")
    return f"[{', '.join(parts)}]"
