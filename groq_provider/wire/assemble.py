"""Assemble the chunks of one stream into one answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs

from groq_provider.errors import ResponseDecodeError, ResponseTooLargeError
from groq_provider.types._base import freeze_json
from groq_provider.types.response import ResponseChunk, ToolCallDelta, Usage, text_chunk
from groq_provider.wire import codec
from groq_provider.wire.json_fields import (
    REPLACEMENT,
    count_values,
    joined_text,
    split_half,
    strict_items,
    with_checkpoints,
)
from groq_provider.wire.json_text import MAX_VALUES, as_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from groq_provider.wire.tool_calls import ToolCalls

__all__ = ["Assembler"]

# A chunk with these keys alone takes the short way through ``feed``; nearly every chunk does.
_USUAL_KEYS = frozenset({"id", "object", "created", "model", "system_fingerprint", "choices"})
_CHOICE_KEYS = frozenset({"index", "delta", "logprobs", "finish_reason"})
_USUAL_DELTA_KEYS = frozenset({"content", "role", "reasoning", "reasoning_content", "channel"})

_CONTENT_PLACE = (0, "content")
#: Values of ``finish_reason`` that do not finish an answer: servers send the first two on running chunks, and a gateway sends the last
#: when its own upstream failed.
_NO_FINISH = ("", "null", "error")

#: The bytes in front of the text of a chunk, in compact and in spaced JSON.
_CONTENT_MARKS = (b'"content":"', b'"content": "')
#: A prefix that no chunk has: no template has been learned, or it cannot be used at the moment.
_NO_PREFIX = b"\0"
#: The number of chunks tried as a template. If the server gives every chunk its own id, no template ever fits.
_TEMPLATE_TRIES = 4
#: The number of values kept of all chunks together, texts aside: a stream may be four times as long as a plain answer.
_MAX_KEPT_VALUES = 4 * MAX_VALUES


class Assembler:
    """Builds one answer from the decoded chunks of one stream, in order and in linear time.

    An assembler belongs to one thread.

    Args:
        checkpoint: Called every few milliseconds of work. It may raise, to enforce a deadline or a cancellation.

    Attributes:
        finish_reason: The finish reason of choice 0; ``None`` until it has come and every other choice has finished, too.
        usage: The newest usage report, or ``None``. Reports replace each other and must not be added up.
        other_chunks: The parts of the newest chunk that belong to further choices. The caller must empty the list.
        stop_error: Why the answer stopped early: the text of ``x_groq.error``, or our own text where the service gave none.
        failed_choice: The choice that ended with ``finish_reason: "error"``, or ``None``.
    """

    __slots__ = (
        "_checkpoint",
        "_content_parts",
        "_envelope_fields",
        "_first_chunk",
        "_function_arguments",
        "_kept_values",
        "_logprobs",
        "_open_choices",
        "_open_halves",
        "_other_choices",
        "_other_chunk_count",
        "_other_text",
        "_paused_prefix",
        "_prefix",
        "_reasoning_parts",
        "_reported_finish",
        "_suffix",
        "_templates_left",
        "_text_slice",
        "_tool_calls",
        "_unknown_fields",
        "failed_choice",
        "finish_reason",
        "other_chunks",
        "stop_error",
        "usage",
    )

    def __init__(self, checkpoint: Callable[[], object] = int) -> None:
        self._checkpoint = checkpoint
        self._content_parts: list[str] = []
        self._reasoning_parts: list[str] = []
        self._tool_calls: ToolCalls | None = None
        #: First halves of characters that the server has cut in two, by choice and field.
        self._open_halves: dict[tuple[int, str | int], str] = {}  # by choice, and by name of text or index of tool call
        self._paused_prefix = _NO_PREFIX  # the prefix of the template while half a character is open
        self._envelope_fields: dict[str, Any] = {}
        self._logprobs: Any = None
        self._reported_finish: str | None = None
        self._other_choices: dict[int, bool] = {}  # choices other than 0: index to "has finished"
        self._open_choices = 0  # the number of them that have not finished
        self._unknown_fields: dict[str, dict[str, Any]] = {}  # fields this version does not know, by place
        self._function_arguments: list[str] = []  # of the deprecated ``function_call``
        self._kept_values = 0
        self._other_text = 0  # characters of the other choices
        self.other_chunks: list[ResponseChunk] = []
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.stop_error: str | None = None
        self.failed_choice: dict[str, Any] | None = None
        self._other_chunk_count = 0  # chunks with reasoning, tool calls or another choice, but without content
        #: The template: the bytes around the text of a chunk that brought one piece of text and nothing else new. The next chunk usually
        #: has the same bytes there.
        self._prefix, self._suffix = _NO_PREFIX, b""
        self._text_slice = slice(0)
        self._templates_left = _TEMPLATE_TRIES
        #: The first chunk, if its envelope is the usual one and has not been read yet: the caller gets the first text sooner.
        self._first_chunk: dict[str, Any] | None = None

    @property
    def chunks(self) -> int:
        """The number of chunks that carried content, reasoning or tool-call text."""
        return len(self._content_parts) + self._other_chunk_count

    def reuse_template(self, data: bytes) -> ResponseChunk | None:
        """Take a chunk that differs from the learned template in nothing but its text; return ``None`` if it differs otherwise.

        This skips the JSON decoder, which is most of the work for a chunk of one token. After ``None`` nothing has changed, and the
        caller must decode the chunk and call :meth:`feed`.
        """
        if not data.startswith(self._prefix) or not data.endswith(self._suffix):
            return None
        try:
            text = str(data[self._text_slice], "utf-8")
        except UnicodeDecodeError:
            return None
        # Only the decoder may judge a quote (the string ends), an escape, or a control character (JSON forbids it).
        if not text or '"' in text or "\\" in text or not text.isprintable():
            return None
        self._content_parts.append(text)
        return text_chunk(text)

    def _learn_template(self, data: bytes, text: str) -> None:
        """Remember the bytes of *data* around *text*. The caller has checked that *text* is all that is new in it."""
        self._templates_left -= 1
        # Without a backslash no string can hold a quote, so this is the key itself; a second one would make the match ambiguous.
        if b"\\" in data or data.count(b'"content"') != 1:
            return
        plain = text.encode("utf-8", "replace")
        for mark in _CONTENT_MARKS:
            before, separator, after = data.partition(mark)
            if separator and after.startswith(plain + b'"'):
                self._prefix, self._suffix = before + separator, after[len(plain) :]
                self._text_slice = slice(len(self._prefix), -len(self._suffix))

    def feed(self, data: Any, source: bytes = b"") -> ResponseChunk | None:
        """Take one decoded chunk and return its new text, reasoning and tool calls; ``None`` if it has none of them.

        Args:
            data: The decoded chunk.
            source: The bytes it was decoded from, from which :meth:`reuse_template` may learn.

        Raises:
            ResponseDecodeError: The value is not a chunk; the message names the place.
        """
        if type(data) is not dict:
            raise ResponseDecodeError(f"expected an object, got {type(data).__name__} @ $")
        choices = data.get("choices")
        usual = _USUAL_KEYS.issuperset(data)
        first = self._first_chunk
        if first is not None and (self.chunks or not usual):
            self._read_first_envelope()
            first = None
        if first is None and not self._envelope_fields and _is_usual_envelope(data):
            self._first_chunk = data
        elif not usual or (first is None and not self._envelope_fields):
            self._read_envelope(data)
        elif type(choices) is list and len(choices) == 1 and type(choices[0]) is dict:
            # The short way: one more piece of text and nothing else.
            choice = choices[0]
            delta = choice.get("delta")
            if (
                type(delta) is dict
                and len(delta) == 1
                and not choice.get("finish_reason")
                and choice.get("index") == 0
                and choice.get("logprobs") is None
                and _CHOICE_KEYS.issuperset(choice)
            ):
                content = delta.get("content")
                if content and type(content) is str:
                    if self._open_halves or not content.isascii():
                        content = self._join_halves(_CONTENT_PLACE, content)
                        if not content:
                            return None
                    self._content_parts.append(content)
                    if self._templates_left and source:
                        self._learn_template(source, content)
                    return ResponseChunk(content=content)
        if not choices:  # a usage-only chunk
            if choices is not None and type(choices) is not list:
                raise ResponseDecodeError(f"expected an array, got {type(choices).__name__} @ $.choices")
            return None
        if type(choices) is not list:
            raise ResponseDecodeError(f"expected an array, got {type(choices).__name__} @ $.choices")
        if len(choices) == 1:
            return self._read_choice(choices[0], "$.choices[0]")
        by_index: dict[int, list[ResponseChunk]] = {}
        for i, choice in enumerate(with_checkpoints(choices, self._checkpoint)):
            if (chunk := self._read_choice(choice, f"$.choices[{i}]")) is not None:
                by_index.setdefault(chunk.index, []).append(chunk)
        merged = [_merge_chunks(parts) for _, parts in sorted(by_index.items())]
        self.other_chunks = merged[1:]
        return merged[0] if merged else None

    def _read_first_envelope(self) -> None:
        """Read the envelope of the first chunk, unless that has been done."""
        first, self._first_chunk = self._first_chunk, None
        if first is not None:
            self._read_envelope(first)

    def _read_choice(self, choice: Any, path: str) -> ResponseChunk | None:
        if type(choice) is not dict:
            raise ResponseDecodeError(f"expected an object, got {type(choice).__name__} @ {path}")
        delta, name = choice.get("delta"), "delta"
        if (
            delta is None and type(choice.get("message")) is dict
        ):  # the name that some compatible servers use in a stream, too
            delta, name = choice["message"], "message"
        index = choice.get("index") or 0
        if type(index) is not int:
            raise ResponseDecodeError(f"expected an integer, got {type(index).__name__} @ {path}.index")
        finish = choice.get("finish_reason")
        if finish in _NO_FINISH:
            if finish == "error":
                self.stop_error, self.failed_choice = "the server ended the answer with finish_reason 'error'", choice
            finish = None
        if finish:
            if type(finish) is not str:
                raise ResponseDecodeError(f"expected a string, got {type(finish).__name__} @ {path}.finish_reason")
            if index == 0:
                self._reported_finish = finish
        if finish or index:
            if index:
                had_finished = self._other_choices.get(index)
                if had_finished is None:
                    self._count_kept(index)
                    self._open_choices += 1
                if finish and not had_finished:
                    self._open_choices -= 1
                self._other_choices[index] = bool(finish or had_finished)
            self.finish_reason = None if self._open_choices else self._reported_finish
        if index == 0 and (logprobs := choice.get("logprobs")) is not None:
            self._count_kept(logprobs)
            self._logprobs = _join_logprobs(self._logprobs, logprobs)
        if index == 0 and not _CHOICE_KEYS.issuperset(choice):
            unknown = {key: item for key, item in choice.items() if key not in _CHOICE_KEYS and key != name}
            if unknown:
                self._keep_unknown("choice", unknown)
        if not delta:
            if delta is None or type(delta) is dict:
                return None
            raise ResponseDecodeError(f"expected an object, got {type(delta).__name__} @ {path}.{name}")
        if type(delta) is not dict:
            raise ResponseDecodeError(f"expected an object, got {type(delta).__name__} @ {path}.{name}")
        return self._read_delta(delta, index, f"{path}.{name}")

    def _read_delta(self, delta: dict[str, Any], index: int, path: str) -> ResponseChunk | None:
        content = delta.get("content")
        reasoning = codec.reasoning(delta)
        if type(content) is not str:
            content = joined_text(delta, "content", path) or ""
        calls: tuple[ToolCallDelta, ...] = ()
        if not _USUAL_DELTA_KEYS.issuperset(delta):
            calls = self._read_rare_fields(delta, index, path)
        if index == 0 and "channel" in delta and delta["channel"] is not None:
            self._keep_unknown("message", {"channel": delta["channel"]})
        if content:
            content = self._join_halves((index, "content"), content)
        if reasoning:
            reasoning = self._join_halves((index, "reasoning"), reasoning)
        if not content and not reasoning and not calls:
            return None
        if index == 0:
            if content:
                self._content_parts.append(content)
            if reasoning:
                self._reasoning_parts.append(reasoning)
        else:
            self._other_text += len(content) + len(reasoning or "") + sum(len(call.arguments) for call in calls)
        if index != 0 or not content:
            self._other_chunk_count += 1
        return ResponseChunk(content=content, reasoning=reasoning or None, tool_calls=calls, index=index)

    def _count_kept(self, kept: Any) -> None:
        """Count the values that stay in memory, and refuse too many: one byte of a stream can become a hundred bytes of objects."""
        self._kept_values += count_values(kept, self._checkpoint)
        if self._kept_values > _MAX_KEPT_VALUES:
            raise ResponseTooLargeError(
                f"the chunks hold more than {_MAX_KEPT_VALUES:,} values beside the texts", sent=True
            )

    def _keep_unknown(self, place: str, unknown: dict[str, Any]) -> None:
        """Keep fields that this version does not know, for ``extra``."""
        self._count_kept(unknown)
        fields_there = self._unknown_fields.get(place)
        if fields_there is None:
            fields_there = self._unknown_fields[place] = {}
        fields_there.update(unknown)

    def _read_rare_fields(self, delta: dict[str, Any], index: int, path: str) -> tuple[ToolCallDelta, ...]:
        calls = [
            codec.tool_call(item, f"{path}.tool_calls[{i}]", self._checkpoint)
            for i, item in enumerate(with_checkpoints(strict_items(delta, "tool_calls", path), self._checkpoint))
        ]
        parts = codec.rare_fields(delta, self._checkpoint)
        if index != 0:  # the response is made of choice 0 alone
            return tuple([self._join_half_arguments(index, call) for call in calls])
        if unknown := codec.unknown_fields(delta):
            self._keep_unknown("message", unknown)
        for name, part in parts.items():
            self._count_kept(delta[name])
            if name == "function_call":
                call = self._envelope_fields.setdefault(name, {})
                call.update({key: item for key, item in part.items() if key != "arguments" and item is not None})
                if type(arguments := part.get("arguments")) is str:
                    self._function_arguments.append(arguments)
            else:
                self._envelope_fields.setdefault(name, []).extend(part)
        if not calls:
            return ()
        if self._tool_calls is None:
            from groq_provider.wire.tool_calls import ToolCalls  # imported late: most answers have no tool calls

            self._tool_calls = ToolCalls()
        return tuple([self._tool_calls.add(call) for call in with_checkpoints(calls, self._checkpoint)])

    def _join_half_arguments(self, index: int, call: ToolCallDelta) -> ToolCallDelta:
        if not call.arguments:
            return call
        return attrs.evolve(call, arguments=self._join_halves((index, call.index), call.arguments))

    def _join_halves(self, place: tuple[int, str | int], text: str) -> str:
        """Join *text* to the half character kept of this place; keep the first half of a character at its end for the next text."""
        half = self._open_halves.pop(place, "")
        if not half and text.isascii():
            return text
        text, new_half = split_half(half + text)
        if half and place == _CONTENT_PLACE:
            self._prefix, self._paused_prefix = self._paused_prefix, _NO_PREFIX
        if new_half:
            self._open_halves[place] = new_half
            if place == _CONTENT_PLACE:
                self._prefix, self._paused_prefix = _NO_PREFIX, self._prefix
        return text

    def flush_halves(self) -> tuple[ResponseChunk, ...]:
        """End the characters of which only one half came: each becomes U+FFFD. Call it once, at the end of the stream."""
        if self._tool_calls is None and not self._open_halves:
            return ()
        ends: dict[int, dict[str, Any]] = {}  # fields of a chunk by the index of its choice
        if self._tool_calls is not None and (calls := self._tool_calls.flush_halves()):
            ends[0] = {"tool_calls": calls}
        for index, name in sorted(self._open_halves, key=str):
            fields = ends.setdefault(index, {})
            if isinstance(name, str):
                fields[name] = REPLACEMENT
            else:
                call = ToolCallDelta(index=name, arguments=REPLACEMENT)
                fields["tool_calls"] = (*fields.get("tool_calls", ()), call)
        self._open_halves.clear()
        chosen = ends.get(0, {})
        self._content_parts.append(chosen.get("content", ""))
        self._reasoning_parts.append(chosen.get("reasoning", ""))
        return tuple([ResponseChunk(index=index, **fields) for index, fields in ends.items()])

    def _read_envelope(self, data: dict[str, Any]) -> None:
        fields = codec.envelope({key: item for key, item in data.items() if key != "x_groq"}, self._checkpoint)
        x_groq = data.get("x_groq")
        if type(x_groq) is dict:
            self._read_x_groq(x_groq)
        if "usage" in data:
            self.usage = codec.usage(data["usage"], self._checkpoint) or self.usage
        extra = fields.pop("extra", None)
        if extra:
            self._count_kept(extra)
            self._envelope_fields.setdefault("extra", {}).update(extra)
        for key, item in fields.items():
            # The first chunk names the answer: systems of several models give each chunk a new id, and "stub" to the last one.
            if key in ("id", "created_at"):
                self._envelope_fields.setdefault(key, item)
            else:
                self._envelope_fields[key] = item

    def _read_x_groq(self, x_groq: dict[str, Any]) -> None:
        """Read the service's own part. In a stream its ``usage`` is the usage of the answer; in a plain answer it is not."""
        own_part = dict(x_groq)
        reported = own_part.get("usage")
        if type(reported) is dict and "completion_tokens" in reported:
            self.usage = codec.usage(own_part.pop("usage"), self._checkpoint) or self.usage
        if type(breakdown := own_part.pop("usage_breakdown", None)) is dict:
            self._envelope_fields["usage_breakdown"] = codec.usage_breakdown(breakdown, self._checkpoint)
        if own_part.get("error"):
            self.stop_error = as_text(
                own_part["error"]
            )  # uncut: the caller must blank out a key in it before it is cut
            own_part["error"] = self.stop_error
        if not _X_GROQ_KEYS.issuperset(own_part):
            self._count_kept(own_part)
        known = self._envelope_fields.setdefault("_x_groq", {})
        known.update({key: item for key, item in own_part.items() if item is not None})

    def replace_stop_error(self, text: str) -> None:
        """Replace the text of ``x_groq.error``, here and in the response."""
        self.stop_error = text
        self._envelope_fields["_x_groq"]["error"] = text

    @property
    def request_id(self) -> str | None:
        """The service's request id, or ``None`` if no chunk has named it."""
        self._read_first_envelope()
        named = self._envelope_fields.get("_x_groq", {}).get("id")
        return named if isinstance(named, str) else None

    def text_size(self) -> int:
        """Return the number of characters received: content, reasoning and tool arguments of all choices."""
        calls = 0 if self._tool_calls is None else self._tool_calls.text_size()
        return sum(map(len, self._content_parts)) + sum(map(len, self._reasoning_parts)) + calls + self._other_text

    def response_fields(self) -> dict[str, Any]:
        """Return the fields of :class:`~groq_provider.LLMResponse` as far as the chunks so far give them."""
        self._read_first_envelope()
        fields: dict[str, Any] = {key: item for key, item in self._envelope_fields.items() if key != "_x_groq"}
        if self._kept_values:
            for name in ("executed_tools", "annotations"):
                fields[name] = tuple(fields.get(name, ()))
        if self._unknown_fields or "extra" in fields:
            extra = dict(fields.get("extra", {}))
            for place, unknown in self._unknown_fields.items():
                # The envelope may have a field of this name as well.
                known = extra.get(place)
                extra[place] = {**known, **unknown} if type(known) is dict else unknown
            fields["extra"] = freeze_json(extra, self._checkpoint)
        if (call := self._envelope_fields.get("function_call")) is not None:
            fields["function_call"] = freeze_json(
                {**call, "arguments": "".join(self._function_arguments)}, self._checkpoint
            )
        if "_x_groq" in self._envelope_fields:
            fields["x_groq"] = codec.x_groq(self._envelope_fields["_x_groq"], self._checkpoint)
        fields["content"] = "".join(self._content_parts)
        fields["reasoning"] = "".join(self._reasoning_parts) or None
        fields["tool_calls"] = () if self._tool_calls is None else self._tool_calls.to_tool_calls()
        fields["finish_reason"] = self.finish_reason
        if self._logprobs is not None:
            fields["logprobs"] = freeze_json(self._logprobs, self._checkpoint)
        if self.usage is not None:
            fields["usage"] = self.usage
        return fields


_FIRST_CHUNK_KEYS = _USUAL_KEYS | {"x_groq"}
_X_GROQ_KEYS = frozenset({"id", "seed"})
#: The largest Unix time accepted here; later ones take the long way, which may refuse them.
_LATEST_INSTANT = 1 << 33


def _is_usual_envelope(data: dict[str, Any]) -> bool:
    """Tell whether the envelope of a first chunk can be read later, because no field of it can be invalid."""
    if not _FIRST_CHUNK_KEYS.issuperset(data) or type(data.get("id")) is not str or type(data.get("model")) is not str:
        return False
    created, fingerprint, own = data.get("created"), data.get("system_fingerprint"), data.get("x_groq")
    if (
        type(created) is not int
        or not 0 <= created < _LATEST_INSTANT
        or not (fingerprint is None or type(fingerprint) is str)
    ):
        return False
    if own is None:
        return True
    return (
        type(own) is dict
        and _X_GROQ_KEYS.issuperset(own)
        and type(own.get("id", "")) is str
        and type(own.get("seed", 0)) is int
    )


def _merge_chunks(parts: list[ResponseChunk]) -> ResponseChunk:
    """Merge the parts of one choice that came in one chunk."""
    if len(parts) == 1:
        return parts[0]
    return ResponseChunk(
        content="".join([part.content for part in parts]),
        reasoning="".join([part.reasoning or "" for part in parts]) or None,
        tool_calls=tuple([call for part in parts for call in part.tool_calls]),
        index=parts[0].index,
    )


def _join_logprobs(known: Any, added: Any) -> Any:
    """Append the lists of *added* to those of *known*, in place. Lists of *added* are copied, since later calls append to them."""
    if type(added) is not dict:
        return added
    known = known if type(known) is dict else {}
    for key, item in added.items():
        if type(item) is not list:
            known.setdefault(key, item)
        elif type(known.get(key)) is list:
            known[key].extend(item)
        else:
            known[key] = list(item)
    return known
