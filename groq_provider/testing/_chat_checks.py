"""Checks a chat request, and refuses it with the service's own texts."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Any

from groq_provider.testing import _errors
from groq_provider.testing._errors import invalid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from groq_provider.testing._models import Model

_NUMBERS: dict[str, tuple[float | None, float | None]] = {
    "temperature": (0, 2),
    "top_p": (0, 1),
    "frequency_penalty": (-2, 2),
    "presence_penalty": (-2, 2),
    "n": (1, 1),
    "max_completion_tokens": (1, None),
    "max_tokens": (1, None),
    "seed": (None, None),
    "top_logprobs": (0, 20),
}
_INTEGERS = {"n", "max_completion_tokens", "max_tokens", "seed", "top_logprobs"}
_BOOLEANS = {
    "stream",
    "parallel_tool_calls",
    "include_reasoning",
    "disable_tool_validation",
    "logprobs",
    "store",
    "debug",
}
_CHOICES = {
    "reasoning_format": ("hidden", "raw", "parsed"),
    "reasoning_effort": ("none", "default", "low", "medium", "high"),
    "service_tier": ("auto", "on_demand", "flex", "performance"),
    "citation_options": ("enabled", "disabled"),
}
_FIELDS = {
    *_NUMBERS,
    *_BOOLEANS,
    *_CHOICES,
    *[
        "model",
        "messages",
        "stop",
        "stream_options",
        "tools",
        "tool_choice",
        "response_format",
        "documents",
        "search_settings",
        "include_domains",
    ],
    *["exclude_domains", "compound_custom", "user", "logit_bias", "metadata", "function_call", "functions"],
}
_MESSAGE_FIELDS: dict[str, tuple[str, ...]] = {
    "system": ("role", "content", "name"),
    "developer": ("role", "content", "name"),
    "user": ("role", "content", "name"),
    "assistant": ("role", "content", "reasoning", "tool_calls", "name", "function_call"),
    "tool": ("role", "content", "tool_call_id"),
    "function": ("role", "content", "name"),
}
_REQUIRED_FIELDS: dict[str, tuple[str, ...]] = {
    "assistant": (),
    "tool": ("content", "tool_call_id"),
    "function": ("name", "content"),
}
_PART_FIELDS: dict[str, tuple[str, ...]] = {
    "text": ("type", "text"),
    "image_url": ("type", "image_url"),
    "document": ("type", "document"),
}
_FUNCTION_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_shape(body: Any) -> None:
    """Check the body against the request's schema, whatever the model.

    Raises:
        RefusedError: A 400 with the service's text.
    """
    if not isinstance(body, dict):
        raise invalid("request body must be a JSON object")
    _check_properties(body, _FIELDS)
    for name in ("model", "messages"):
        if name not in body:
            raise invalid(f"property '{name}' is missing")
    if not isinstance(body["model"], str):
        raise invalid("'model' : value must be a string")
    for name, (low, high) in _NUMBERS.items():
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int if name in _INTEGERS else (int, float)):
            raise invalid(f"'{name}' : value must be {'an integer' if name in _INTEGERS else 'a number'}")
        if low is not None and value < low:
            raise invalid(f"'{name}' : number must be at least {low}")
        if high is not None and value > high:
            raise invalid(f"'{name}' : number must be at most {high}")
    for name in _BOOLEANS & body.keys():
        if not isinstance(body[name], bool) and (
            body[name] is not None or name in {"disable_tool_validation", "debug"}
        ):
            raise invalid(f"'{name}' : value must be a boolean")
    for name, choices in _CHOICES.items():
        if body.get(name) is not None and body[name] not in choices:
            listed = ", ".join(f'"{choice}"' for choice in choices)
            raise invalid(f"'{name}' : value must be one of [{listed}]")
    if body.get("stream_options") is not None:
        _check_properties(body["stream_options"], ("include_usage",))
    stop = body.get("stop")
    if isinstance(stop, list) and len(stop) > 4:
        raise invalid("'stop' : maximum number of items is 4")
    if stop is not None and not (isinstance(stop, str) or _all_text(stop)):
        raise invalid("'stop' : value must be a string or an array of strings")
    _check_messages(body["messages"])
    _check_tools(body)
    _check_format(body.get("response_format"))
    if body.get("include_reasoning") is not None and body.get("reasoning_format") is not None:
        raise invalid("cannot specify both `include_reasoning` and `reasoning_format`", param="include_reasoning")


def _all_text(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _unknown_property(body: Any, allowed: Iterable[str]) -> str | None:
    """Return the complaint about the first property of *body* that is not *allowed*."""
    names = list(allowed)
    for name in body:
        if name not in names:
            close_names = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
            return f"property '{name}' is unsupported" + (f", did you mean '{close_names[0]}'?" if close_names else "")
    return None


def _check_properties(body: Any, allowed: Iterable[str]) -> None:
    if not isinstance(body, dict):
        raise invalid("value must be an object")
    complaint = _unknown_property(body, allowed)
    if complaint:
        raise invalid(complaint)


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list):
        raise invalid("'messages' : value must be an array")
    if not messages:
        raise invalid("'messages' : minimum number of items is 1")
    for index, message in enumerate(messages):
        where = f"messages.{index}"
        if not isinstance(message, dict):
            raise invalid(f"'{where}' : value must be an object")
        role = message.get("role")
        if not isinstance(role, str) or role not in _MESSAGE_FIELDS:
            raise invalid(f"'{where}' : discriminator property 'role' has invalid value")
        complaint = _message_complaint(message, role, where)
        if complaint:
            raise invalid(f"'{where}' : for 'role:{role}' the following must be satisfied[{complaint}]")


def _message_complaint(message: dict[str, Any], role: str, where: str) -> str | None:
    # Inside messages the service adds no "did you mean".
    for name in message:
        if name not in _MESSAGE_FIELDS[role]:
            return f"('{where}' : property '{name}' is unsupported)"
    for name in _REQUIRED_FIELDS.get(role, ("content",)):
        if name not in message:
            return f"('{where}' : property '{name}' is missing)"
    content = message.get("content")
    if isinstance(content, list):
        if not content:
            return f"('{where}.content' : minimum number of items is 1)"
        for index, part in enumerate(content):
            kind = part.get("type") if isinstance(part, dict) else None
            if (
                not isinstance(kind, str)
                or kind not in _PART_FIELDS
                or (kind != "text" and role not in {"user", "tool"})
            ):
                return f"('{where}.content.{index}' : discriminator property 'type' has invalid value)"
            for name in part:
                if name not in _PART_FIELDS[kind]:
                    return f"('{where}.content.{index}' : property '{name}' is unsupported)"
            if kind not in part:
                return f"('{where}.content.{index}' : property '{kind}' is missing)"
            if kind == "text" and not isinstance(part["text"], str):
                return f"('{where}.content.{index}.text' : value must be a string)"
    elif not isinstance(content, str) and not (content is None and role in {"assistant", "function"}):
        return f"('{where}.content' : value must be a string)"
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        return f"('{where}.tool_calls' : value must be an array)"
    for index, call in enumerate(calls):
        for name in ("id", "type", "function"):
            if not isinstance(call, dict) or name not in call:
                return f"('{where}.tool_calls.{index}' : property '{name}' is missing)"
        if not isinstance(call["function"], dict):
            return f"('{where}.tool_calls.{index}.function' : value must be an object)"
        for name in ("name", "arguments"):
            if not isinstance(call["function"].get(name), str):
                return f"('{where}.tool_calls.{index}.function.{name}' : value must be a string)"
    return None


def _check_tools(body: dict[str, Any]) -> None:
    tools = body.get("tools") or []
    if not isinstance(tools, list):
        raise invalid("'tools' : value must be an array")
    if len(tools) > 128:
        raise invalid("'tools' : maximum number of items is 128")
    names = []
    for index, tool in enumerate(tools):
        if not isinstance(tool, dict) or "type" not in tool:
            raise invalid(f"'tools.{index}' : property 'type' is missing")
        if tool["type"] != "function":
            continue
        function = tool.get("function")
        if not isinstance(function, dict) or "name" not in function:
            raise invalid(f"'tools.{index}.function' : property 'name' is missing")
        complaint = _unknown_property(function, ("name", "description", "parameters", "strict"))
        if complaint:
            raise invalid(f"'tools.{index}.function' : {complaint}")
        if not isinstance(function["name"], str) or not _FUNCTION_NAME.fullmatch(function["name"]):
            raise invalid(f"'tools.{index}.function.name' : value must match [a-zA-Z0-9_-]{{1,64}}")
        parameters = function.get("parameters")
        if parameters is not None:
            _check_schema(parameters, f"tools.{index}.function.parameters")
        names.append(function["name"])
    choice = body.get("tool_choice")
    if choice == "required" and not tools:
        raise invalid("`tool_choice` is `required`, but no `tools` are given", param="tool_choice")
    if choice is not None and not isinstance(choice, dict) and choice not in ("none", "auto", "required"):
        raise invalid('\'tool_choice\' : value must be one of ["none", "auto", "required"], or an object')
    if isinstance(choice, dict):
        function = choice.get("function")
        chosen_name = function.get("name") if isinstance(function, dict) else None
        if chosen_name not in names:
            raise invalid(f"tool choice '{chosen_name}' was not in request.tools", param="tool_choice")


def _check_format(response_format: Any) -> None:
    if response_format is None:
        return
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind not in ("text", "json_object", "json_schema"):
        raise invalid('\'response_format.type\' : value must be one of ["text", "json_object", "json_schema"]')
    if kind != "json_schema":
        return
    json_schema = response_format.get("json_schema")
    if not isinstance(json_schema, dict) or "name" not in json_schema:
        raise invalid("'response_format.json_schema' : property 'name' is missing", param="response_format")
    if json_schema.get("schema") is not None:
        _check_schema(json_schema["schema"], "response_format.json_schema.schema")
    if json_schema.get("strict"):
        _check_strict(json_schema.get("schema"), [], str(json_schema["name"]))


def _check_schema(schema: Any, where: str) -> None:
    """Refuse a value that is plainly not a schema; nested schemas are not checked."""
    if not isinstance(schema, dict):
        raise invalid(f"'{where}' : value must be an object")
    for key in ("properties", "$defs"):
        if schema.get(key) is not None and not isinstance(schema[key], dict):
            raise invalid(f"'{where}.{key}' : value must be an object")


def _check_strict(schema: Any, path: list[str], name: str) -> None:
    """Refuse a schema that breaks the rules of ``strict`` at any depth."""
    if isinstance(schema, list):
        for index, part in enumerate(schema):
            _check_strict(part, [*path, str(index)], name)
        return
    if not isinstance(schema, dict):
        return
    properties = schema.get("properties")
    if isinstance(properties, dict) and schema.get("type") == "object":
        problem = None
        required = schema.get("required") or []
        if not isinstance(required, list) or sorted(map(str, required)) != sorted(properties):
            problem = ("required", "`required` must be an array including every key in properties")
        elif schema.get("additionalProperties") is not False:
            problem = ("additionalProperties", "`additionalProperties:false` must be set on every object")
        if problem:
            segments = [*path, problem[0]]
            raise invalid(
                f"invalid JSON schema for response_format: '{name}': /{'/'.join(segments)}: {problem[1]}",
                param="response_format",
                schema_path="/" + "/".join(segments),
                schema_path_segments=segments,
                schema_kind="object",
            )
    for key in ("properties", "$defs"):
        children = schema.get(key)
        for child, part in children.items() if isinstance(children, dict) else ():
            _check_strict(part, [*path, key, child], name)
    for key in ("items", "anyOf"):
        _check_strict(schema.get(key), [*path, key], name)


def check_model(body: dict[str, Any], model: Model, prompt_tokens: int) -> None:
    """Check the fields that have limits of the model.

    Raises:
        RefusedError: A 400 with the service's text.
    """
    if model.kind not in {"chat", "guard"}:
        raise invalid(f"The model `{model.id}` does not support chat completions")
    for name in ("logprobs", "logit_bias", "top_logprobs"):
        if body.get(name):
            raise _errors.unsupported_with_model(name)
    if body.get("tools") and not model.tools:
        raise _errors.unsupported_with_model("tool calling")
    effort = body.get("reasoning_effort")
    if effort is not None:
        if model.reasoning is None:
            raise _errors.unsupported_with_model("reasoning_effort")
        if model.reasoning == "gpt-oss" and effort in {"none", "default"}:
            raise invalid("`reasoning_effort` must be one of `low`, `medium`, or `high`", param="reasoning_effort")
    form = (body.get("response_format") or {}).get("type", "text")
    if body.get("reasoning_format") is not None and model.reasoning is None:
        raise _errors.unsupported_with_model("reasoning_format")
    if body.get("reasoning_format") == "raw" and (body.get("tools") or form != "text"):
        raise invalid("`reasoning_format` `raw` cannot be used with tools or JSON mode", param="reasoning_format")
    if (form == "json_schema" and not model.json_schema) or (form == "json_object" and not model.json_mode):
        raise invalid(
            f"This model does not support response format `{form}`. See supported models at "
            "https://console.groq.com/docs/structured-outputs#supported-models",
            param="response_format",
        )
    if form == "json_object" and "json" not in str(body["messages"]).lower():
        raise invalid(
            "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.",
            param="messages",
        )
    if not model.vision:
        for index, message in enumerate(body["messages"]):
            content = message.get("content")
            if isinstance(content, list) and any(part["type"] == "image_url" for part in content):
                raise invalid(f"messages[{index}].content must be a string", param=f"messages[{index}]")
    for name in ("max_completion_tokens", "max_tokens"):
        if (body.get(name) or 0) > model.max_completion_tokens:
            raise invalid(
                f"`{name}` must be less than or equal to `{model.max_completion_tokens}`, the maximum value for "
                f"`{name}` is less than the `context_window` for this model",
                param=name,
            )
    if prompt_tokens > model.context_window:
        raise invalid(
            "Please reduce the length of the messages or completion.", param="messages", code="context_length_exceeded"
        )
