"""Chunks of a stream into one answer: text, reasoning, tool calls by index, usage from whichever place came last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from groq_provider.errors import ResponseDecodeError, ResponseTooLargeError
from groq_provider.types._base import from_answer
from groq_provider.types.response import ResponseChunk, ToolCallDelta, Usage
from groq_provider.wire import codec
from groq_provider.wire.json_fields import LOST, items, paced, spoken, whole
from groq_provider.wire.json_text import MOST_VALUES, as_text, count_values

if TYPE_CHECKING:
    from collections.abc import Callable

    from groq_provider.wire.tool_calls import ToolCalls

__all__ = ["Assembler"]

# What nearly every chunk has and nothing else; a chunk of these keys alone takes the short way.
_USUAL = frozenset({"id", "object", "created", "model", "system_fingerprint", "choices"})
_CHOICE = frozenset({"index", "delta", "logprobs", "finish_reason"})
_USUAL_DELTA = frozenset({"content", "role", "reasoning", "reasoning_content", "channel"})

_CONTENT = (0, "content")
#: What ends no answer: servers send the first two on running chunks; with the last gateways say that their own upstream failed.
_NO_FINISH = ("", "null", "error")

#: What stands before the text in a chunk, as compact JSON and as spaced JSON.
_MARKS = (b'"content":"', b'"content": "')
#: The beginning of no chunk: nothing has been learned, or it cannot be used just now.
_NO_HEAD = b"\0"
#: So many chunks are tried as a pattern; a server that gives each an id of its own has none.
_TRIES = 4
#: Values that are kept of all chunks together beside the texts: a stream may be four times as long as a plain answer.
_MOST_KEPT = 4 * MOST_VALUES


class Assembler:
    """Takes the decoded chunks of one stream in order, in linear time.

    Not shared between threads.

    Args:
        look: Called every few milliseconds of work; it may raise.

    Attributes:
        finish_reason: Of the answer, once it came and no other choice is still being made.
        usage: The newest report, if any came. Reports are never added up.
        more: What the newest chunk holds of further choices, to be taken out by the reader.
        stop_error: Text of ``x_groq.error``, by which the service says why it stopped early, or of ours where it did not say.
        failed: The choice that ended with ``finish_reason: "error"``, if one did.
    """

    __slots__ = (
        "_between",
        "_calls",
        "_content",
        "_fields",
        "_finish",
        "_first",
        "_function",
        "_halves",
        "_head",
        "_kept",
        "_logprobs",
        "_look",
        "_notes",
        "_open_choices",
        "_other_choices",
        "_other_text",
        "_others",
        "_reasoning",
        "_resting",
        "_tail",
        "_tries",
        "failed",
        "finish_reason",
        "more",
        "stop_error",
        "usage",
    )

    def __init__(self, look: Callable[[], object] = int) -> None:
        self._look = look
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: ToolCalls | None = None
        #: First halves of characters that a server has cut in two, by where their second halves will come.
        self._halves: dict[tuple[int, str], str] = {}
        self._resting = _NO_HEAD  # the pattern of :meth:`again`, while a half is open
        self._fields: dict[str, Any] = {}
        self._logprobs: Any = None
        self._finish: str | None = None
        self._other_choices: dict[int, bool] = {}  # by index, whether they are finished
        self._open_choices = 0  # those that are not
        self._notes: dict[str, dict[str, Any]] = {}  # what this version does not know, by its place
        self._function: list[str] = []  # arguments of the deprecated single call
        self._kept = 0
        self._other_text = 0  # characters of theirs
        self.more: list[ResponseChunk] = []
        self.finish_reason: str | None = None
        self.usage: Usage | None = None
        self.stop_error: str | None = None
        self.failed: dict[str, Any] | None = None
        self._others = 0  # chunks with something for the reader, but without content
        #: The bytes around the text of a chunk that held one piece of text and nothing new: of the next one usually, too.
        self._head, self._tail = _NO_HEAD, b""
        self._between = slice(0)
        self._tries = _TRIES
        #: The first chunk, if its envelope is nothing but the usual: the first text goes out before anybody looks at it.
        self._first: dict[str, Any] | None = None

    @property
    def chunks(self) -> int:
        """How many chunks carried content, reasoning or tool-call text."""
        return len(self._content) + self._others

    def again(self, data: bytes) -> ResponseChunk | None:
        """Take a chunk that differs from one before it in nothing but a plain piece of text, and return it; else change nothing.

        Decoding the rest once more would find what is known already. That is most of the work for a chunk of one token.
        """
        if not data.startswith(self._head) or not data.endswith(self._tail):
            return None
        try:
            text = str(data[self._between], "utf-8")
        except UnicodeDecodeError:
            return None
        # What is no plain text needs the decoder: the end of the string, escapes, and control characters, which JSON forbids.
        if not text or '"' in text or "\\" in text or not text.isprintable():
            return None
        self._content.append(text)
        return ResponseChunk(content=text)

    def _learn(self, data: bytes, text: str) -> None:
        """Remember what stood around *text*, which the decoder found to be all that was new in *data*."""
        self._tries -= 1
        # Without escapes no string holds a bare quote, so this is the key; twice would leave open which of them counts.
        if b"\\" in data or data.count(b'"content"') != 1:
            return
        plain = text.encode("utf-8", "replace")
        for mark in _MARKS:
            head, found, rest = data.partition(mark)
            if found and rest.startswith(plain + b'"'):
                self._head, self._tail = head + found, rest[len(plain) :]
                self._between = slice(len(self._head), -len(self._tail))

    def feed(self, data: Any, source: bytes = b"") -> ResponseChunk | None:
        """Take one chunk; return what it adds for the reader, or ``None`` when that is nothing.

        Args:
            data: The chunk, decoded.
            source: What it was decoded from; learned from for :meth:`again`.

        Raises:
            ResponseDecodeError: It is not a chunk; the message names the place.
        """
        if type(data) is not dict:
            raise ResponseDecodeError(f"expected an object, got {type(data).__name__} @ $")
        choices = data.get("choices")
        usual = _USUAL.issuperset(data)
        first = self._first
        if first is not None and (self.chunks or not usual):
            self._settle()
            first = None
        if first is None and not self._fields and _can_wait(data):
            self._first = data
        elif not usual or (first is None and not self._fields):
            self._read_envelope(data)
        elif type(choices) is list and len(choices) == 1 and type(choices[0]) is dict:
            # The short way for nearly every chunk: one more piece of text and nothing else.
            choice = choices[0]
            delta = choice.get("delta")
            if (
                type(delta) is dict
                and len(delta) == 1
                and not choice.get("finish_reason")
                and choice.get("index") == 0
                and choice.get("logprobs") is None
                and _CHOICE.issuperset(choice)
            ):
                content = delta.get("content")
                if content and type(content) is str:
                    if self._halves or not content.isascii():
                        content = self._joined(_CONTENT, content)
                        if not content:
                            return None
                    self._content.append(content)
                    if self._tries and source:
                        self._learn(source, content)
                    return ResponseChunk(content=content)
        if not choices:  # a usage-only chunk
            if choices is not None and type(choices) is not list:
                raise ResponseDecodeError(f"expected an array, got {type(choices).__name__} @ $.choices")
            return None
        if type(choices) is not list:
            raise ResponseDecodeError(f"expected an array, got {type(choices).__name__} @ $.choices")
        if len(choices) == 1:
            return self._choice(choices[0], "$.choices[0]")
        found: dict[int, list[ResponseChunk]] = {}
        for i, choice in enumerate(paced(choices, self._look)):
            if (chunk := self._choice(choice, f"$.choices[{i}]")) is not None:
                found.setdefault(chunk.index, []).append(chunk)
        merged = [_merged(parts) for _, parts in sorted(found.items())]
        self.more = merged[1:]
        return merged[0] if merged else None

    def _settle(self) -> None:
        """Read the envelope of the first chunk, if that is still to be done."""
        first, self._first = self._first, None
        if first is not None:
            self._read_envelope(first)

    def _choice(self, choice: Any, path: str) -> ResponseChunk | None:
        if type(choice) is not dict:
            raise ResponseDecodeError(f"expected an object, got {type(choice).__name__} @ {path}")
        delta, name = choice.get("delta"), "delta"
        if delta is None and type(choice.get("message")) is dict:  # so some compatible servers call it in a stream, too
            delta, name = choice["message"], "message"
        index = choice.get("index") or 0
        if type(index) is not int:
            raise ResponseDecodeError(f"expected an integer, got {type(index).__name__} @ {path}.index")
        finish = choice.get("finish_reason")
        if finish in _NO_FINISH:
            if finish == "error":
                self.stop_error, self.failed = "the server ended the answer with finish_reason 'error'", choice
            finish = None
        if finish:
            if type(finish) is not str:
                raise ResponseDecodeError(f"expected a string, got {type(finish).__name__} @ {path}.finish_reason")
            if index == 0:
                self._finish = finish
        if finish or index:
            if index:
                known = self._other_choices.get(index)
                if known is None:
                    self._keep(index)
                    self._open_choices += 1
                if finish and not known:
                    self._open_choices -= 1
                self._other_choices[index] = bool(finish or known)
            self.finish_reason = None if self._open_choices else self._finish
        if index == 0 and (logprobs := choice.get("logprobs")) is not None:
            self._keep(logprobs)
            self._logprobs = _join_logprobs(self._logprobs, logprobs)
        if index == 0 and not _CHOICE.issuperset(choice):
            unknown = {key: item for key, item in choice.items() if key not in _CHOICE and key != name}
            if unknown:
                self._note("choice", unknown)
        if not delta:
            if delta is None or type(delta) is dict:
                return None
            raise ResponseDecodeError(f"expected an object, got {type(delta).__name__} @ {path}.{name}")
        if type(delta) is not dict:
            raise ResponseDecodeError(f"expected an object, got {type(delta).__name__} @ {path}.{name}")
        return self._delta(delta, index, f"{path}.{name}")

    def _delta(self, delta: dict[str, Any], index: int, path: str) -> ResponseChunk | None:
        content = delta.get("content")
        reasoning = codec.reasoning(delta)
        if type(content) is not str:
            content = spoken(delta, "content", path) or ""
        calls: tuple[ToolCallDelta, ...] = ()
        if not _USUAL_DELTA.issuperset(delta):
            calls = self._rare(delta, index, path)
        if index == 0 and "channel" in delta and delta["channel"] is not None:
            self._note("message", {"channel": delta["channel"]})
        if content:
            content = self._joined((index, "content"), content)
        if reasoning:
            reasoning = self._joined((index, "reasoning"), reasoning)
        if not content and not reasoning and not calls:
            return None
        if index == 0:
            if content:
                self._content.append(content)
            if reasoning:
                self._reasoning.append(reasoning)
        else:
            self._other_text += len(content) + len(reasoning or "") + sum(len(call.arguments) for call in calls)
        if index != 0 or not content:
            self._others += 1
        return ResponseChunk(content=content, reasoning=reasoning or None, tool_calls=calls, index=index)

    def _keep(self, found: Any) -> None:
        """Count what is kept whole: a byte of the stream can become a hundred bytes of objects."""
        self._kept += count_values(found, self._look)
        if self._kept > _MOST_KEPT:
            raise ResponseTooLargeError(f"the chunks hold more than {_MOST_KEPT:,} values beside the texts", sent=True)

    def _note(self, place: str, unknown: dict[str, Any]) -> None:
        """Keep what this version does not know of a place."""
        self._keep(unknown)
        notes = self._notes.get(place)
        if notes is None:
            notes = self._notes[place] = {}
        notes.update(unknown)

    def _rare(self, delta: dict[str, Any], index: int, path: str) -> tuple[ToolCallDelta, ...]:
        calls = [
            codec.tool_call(item, f"{path}.tool_calls[{i}]", self._look)
            for i, item in enumerate(paced(items(delta, "tool_calls", path), self._look))
        ]
        parts = codec.message_parts(delta, self._look)
        if index != 0:  # another answer than the one put together here
            return tuple(calls)
        if unknown := codec.unknown_parts(delta):
            self._note("message", unknown)
        for name, found in parts.items():
            self._keep(delta[name])
            if name == "function_call":
                known = self._fields.setdefault(name, {})
                known.update({key: item for key, item in found.items() if key != "arguments" and item is not None})
                if type(arguments := found.get("arguments")) is str:
                    self._function.append(arguments)
            else:
                self._fields.setdefault(name, []).extend(found)
        if not calls:
            return ()
        if self._calls is None:
            from groq_provider.wire.tool_calls import ToolCalls  # most answers do without

            self._calls = ToolCalls()
        return tuple([self._calls.add(call) for call in paced(calls, self._look)])

    def _joined(self, place: tuple[int, str], text: str) -> str:
        """Return the next text of a place with its characters whole; the first half of one waits for the second."""
        half = self._halves.pop(place, "")
        if not half and text.isascii():
            return text
        text, later = whole(half + text)
        if half and place == _CONTENT:
            self._head, self._resting = self._resting, _NO_HEAD
        if later:
            self._halves[place] = later
            if place == _CONTENT:
                self._head, self._resting = _NO_HEAD, self._head
        return text

    def rest(self) -> ResponseChunk | None:
        """Return what the end of the stream leaves of characters cut in two, as part of the answer; to be asked for once."""
        if self._calls is None and not self._halves:
            return None
        calls = () if self._calls is None else self._calls.rest()
        content, reasoning = [self._halves.pop((0, name), "") and LOST for name in ("content", "reasoning")]
        if not content and not reasoning and not calls:
            return None
        self._content.append(content)
        self._reasoning.append(reasoning)
        return ResponseChunk(content=content, reasoning=reasoning or None, tool_calls=calls)

    def _read_envelope(self, data: dict[str, Any]) -> None:
        fields = codec.envelope({key: item for key, item in data.items() if key != "x_groq"}, self._look)
        x_groq = data.get("x_groq")
        if type(x_groq) is dict:
            self._read_x_groq(x_groq)
        if "usage" in data:
            self.usage = codec.usage(data["usage"], self._look) or self.usage
        extra = fields.pop("extra", None)
        if extra:
            self._keep(extra)
            self._fields.setdefault("extra", {}).update(extra)
        for key, found in fields.items():
            # The first chunk names the answer; systems of several models give a new id to every chunk and "stub" to the last.
            if key in ("id", "created_at"):
                self._fields.setdefault(key, found)
            else:
                self._fields[key] = found

    def _read_x_groq(self, x_groq: dict[str, Any]) -> None:
        """Read the service's own part. Its ``usage`` is the answer's usage here, unlike in a plain answer."""
        rest = dict(x_groq)
        reported = rest.get("usage")
        if type(reported) is dict and "completion_tokens" in reported:
            self.usage = codec.usage(rest.pop("usage"), self._look) or self.usage
        if type(breakdown := rest.pop("usage_breakdown", None)) is dict:
            self._fields["usage_breakdown"] = codec.usage_breakdown(breakdown, self._look)
        if rest.get("error"):
            self.stop_error = as_text(rest["error"])  # whole: a key in it is to be blanked out first
            rest["error"] = self.stop_error
        if not _X_GROQ.issuperset(rest):
            self._keep(rest)
        known = self._fields.setdefault("_x_groq", {})
        known.update({key: item for key, item in rest.items() if item is not None})

    def reword_stop(self, text: str) -> None:
        """Replace what the service said of its early stop."""
        self.stop_error = text
        self._fields["_x_groq"]["error"] = text

    @property
    def request_id(self) -> str | None:
        """The service's id, if a chunk named it."""
        self._settle()
        found = self._fields.get("_x_groq", {}).get("id")
        return found if isinstance(found, str) else None

    def text_size(self) -> int:
        """Return the characters received: content, reasoning and tool arguments, of all choices."""
        calls = 0 if self._calls is None else self._calls.size()
        return sum(map(len, self._content)) + sum(map(len, self._reasoning)) + calls + self._other_text

    def response_fields(self) -> dict[str, Any]:
        """Return the fields of :class:`~groq_provider.LLMResponse` so far."""
        self._settle()
        fields: dict[str, Any] = {key: found for key, found in self._fields.items() if key != "_x_groq"}
        if self._kept:
            for name in ("executed_tools", "annotations"):
                fields[name] = tuple(fields.get(name, ()))
        if self._notes or "extra" in fields:
            extra = dict(fields.get("extra", {}))
            for place, notes in self._notes.items():
                # The service's own, if it ever sends something of that name beside the choices.
                known = extra.get(place)
                extra[place] = {**known, **notes} if type(known) is dict else notes
            fields["extra"] = from_answer(extra, self._look)
        if (call := self._fields.get("function_call")) is not None:
            fields["function_call"] = from_answer({**call, "arguments": "".join(self._function)}, self._look)
        if "_x_groq" in self._fields:
            fields["x_groq"] = codec.x_groq(self._fields["_x_groq"], self._look)
        fields["content"] = "".join(self._content)
        fields["reasoning"] = "".join(self._reasoning) or None
        fields["tool_calls"] = () if self._calls is None else self._calls.whole()
        fields["finish_reason"] = self.finish_reason
        if self._logprobs is not None:
            fields["logprobs"] = from_answer(self._logprobs, self._look)
        if self.usage is not None:
            fields["usage"] = self.usage
        return fields


_FIRST = _USUAL | {"x_groq"}
_X_GROQ = frozenset({"id", "seed"})
#: Seconds of Unix time that any clock can mean.
_LATEST = 1 << 33


def _can_wait(data: dict[str, Any]) -> bool:
    """Say whether the envelope of a first chunk is the usual one, so that reading it later finds nothing wrong."""
    if not _FIRST.issuperset(data) or type(data.get("id")) is not str or type(data.get("model")) is not str:
        return False
    created, fingerprint, own = data.get("created"), data.get("system_fingerprint"), data.get("x_groq")
    if type(created) is not int or not 0 <= created < _LATEST or not (fingerprint is None or type(fingerprint) is str):
        return False
    if own is None:
        return True
    return (
        type(own) is dict
        and _X_GROQ.issuperset(own)
        and type(own.get("id", "")) is str
        and type(own.get("seed", 0)) is int
    )


def _merged(parts: list[ResponseChunk]) -> ResponseChunk:
    """Return one chunk for the parts that a server gave of one choice at once."""
    if len(parts) == 1:
        return parts[0]
    return ResponseChunk(
        content="".join([part.content for part in parts]),
        reasoning="".join([part.reasoning or "" for part in parts]) or None,
        tool_calls=tuple([call for part in parts for call in part.tool_calls]),
        index=parts[0].index,
    )


def _join_logprobs(known: Any, found: Any) -> Any:
    """Append the lists of *found* to those of *known*, in place; the result holds no list of *found*, to which it may be appended."""
    if type(found) is not dict:
        return found
    known = known if type(known) is dict else {}
    for key, item in found.items():
        if type(item) is not list:
            known.setdefault(key, item)
        elif type(known.get(key)) is list:
            known[key].extend(item)
        else:
            known[key] = list(item)
    return known
