"""``groq-provider chat``: one question, or a conversation that keeps its history."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import attrs

from groq_provider import GroqProviderError, Message
from groq_provider.cli.advice import format_error
from groq_provider.cli.live import AnswerPrinter, Spinner, describe_wait
from groq_provider.cli.screen import as_data, print_json, print_note, print_text

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
    """Answer *text*; for ``-`` answer standard input as one text, for ``None`` each of its lines.

    Returns:
        The exit code.
    """
    history = [] if system is None else [Message.system(system)]
    with connect() as provider:
        conversation = _Conversation(provider, history, as_json=as_json, fields=fields)
        if text is None:
            return _answer_lines(conversation)
        if text == "-":
            text = "" if sys.stdin is None else sys.stdin.read().rstrip()
        if not text.strip():
            print_note("groq-provider chat: the text is empty")
            return 2
        conversation.ask(text)
    return 0


@attrs.define
class _Conversation:
    """The history of a conversation, and the way to show its answers."""

    provider: GroqProvider
    history: list[Message]
    as_json: bool = attrs.field(kw_only=True)
    fields: Mapping[str, Any] = attrs.field(kw_only=True)

    def ask(self, text: str) -> None:
        """Print the answer as it arrives, and add both to the history; a failed question is not added."""
        messages = [*self.history, Message.user(text)]
        with (
            Spinner(lambda: describe_wait(self.provider, "waiting for the first token")) as spinner,
            self.provider.generate_stream(messages, **self.fields) as stream,
        ):
            if not self.as_json:
                self._print_stream(stream, spinner)
            response = stream.collect()
        self.history = [*messages, response.message]
        if self.as_json:
            print_json(_data(response))
        elif sys.stderr.isatty():
            print_note(_summary(response))

    @staticmethod
    def _print_stream(stream: LLMStream, spinner: Spinner) -> None:
        answer = AnswerPrinter()
        try:
            for chunk in stream:
                if chunk.content:
                    spinner.end()
                    answer.add(chunk.content)
                elif chunk.reasoning:
                    spinner.describe = _describe_reasoning
        finally:
            answer.end()


def _describe_reasoning() -> str:
    return "the model is reasoning"


def _answer_lines(conversation: _Conversation) -> int:
    """Answer line after line until the input ends; return the exit code of the last question.

    On a terminal Ctrl-C ends the current answer, and at the prompt the conversation.
    """
    code = 0
    at_terminal = sys.stdin is not None and sys.stdin.isatty()
    for line in _lines():
        if not line.strip():
            continue
        try:
            conversation.ask(line)
            code = 0
        except GroqProviderError as error:
            print_note(format_error(error))
            code = 1
        except KeyboardInterrupt:
            if not at_terminal:
                raise
            print_note("\ninterrupted; this question and its answer are not part of the conversation")
            code = _INTERRUPTED
    return code


def _lines() -> Iterator[str]:
    """Yield the lines of standard input; on a terminal show a prompt before each."""
    if sys.stdin is None or not sys.stdin.isatty():
        for line in sys.stdin or ():
            yield line.rstrip("\n")
        return
    try:
        import readline  # noqa: F401 - gives input() its history and editing
    except ImportError:
        pass  # Windows has no readline
    print_note("Ctrl-C ends an answer, Ctrl-D the conversation.")
    while True:
        try:
            yield input("> ")
        except EOFError:
            print_text("")
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
