"""Values for the work that the service did on its own: tools it ran, their results, citations, and usage by model.

Most answers have none of this, so the module is loaded with the first answer that does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from groq_provider.types._base import EMPTY, keep_read_only, mask
from groq_provider.types.usage import Usage

__all__ = [
    "Annotation",
    "BrowserResult",
    "Chart",
    "ChartElement",
    "CodeResult",
    "DocumentCitation",
    "ExecutedTool",
    "FunctionCitation",
    "MCPTool",
    "MCPToolList",
    "ModelUsage",
    "SearchResult",
    "SearchResults",
    "UsageBreakdown",
]

_extra: Any = attrs.field(default=EMPTY, converter=keep_read_only, repr=False)


@attrs.frozen(kw_only=True)
class ModelUsage:
    """Usage of one model in a system of several models.

    .. versionadded:: 0.1.0
    """

    model: str
    usage: Usage
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class UsageBreakdown:
    """Usage by model, for systems of several models.

    .. versionadded:: 0.1.0
    """

    models: tuple[ModelUsage, ...] | None = None
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class SearchResult:
    """One hit of a web search.

    .. versionadded:: 0.1.0
    """

    title: str | None = None
    url: str | None = None
    content: str | None = None
    score: float | None = None
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class SearchResults:
    """The results of a web search by the service.

    .. versionadded:: 0.1.0
    """

    results: tuple[SearchResult, ...] | None = None
    images: tuple[Any, ...] | None = None
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class ChartElement:
    """One series, bar or slice of a chart.

    .. versionadded:: 0.1.0
    """

    label: str
    group: str | None = None
    value: float | None = None
    points: tuple[tuple[float, ...], ...] | None = None
    angle: float | None = None
    radius: float | None = None
    min: float | None = None
    first_quartile: float | None = None
    median: float | None = None
    third_quartile: float | None = None
    max: float | None = None
    outliers: tuple[float, ...] | None = None
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class Chart:
    """A chart drawn by the service's code interpreter.

    .. versionadded:: 0.1.0
    """

    type: str
    elements: tuple[ChartElement, ...] = ()
    title: str | None = None
    x_label: str | None = None
    y_label: str | None = None
    x_unit: str | None = None
    y_unit: str | None = None
    x_ticks: tuple[Any, ...] | None = None
    y_ticks: tuple[Any, ...] | None = None
    x_tick_labels: tuple[str, ...] | None = None
    y_tick_labels: tuple[str, ...] | None = None
    x_scale: str | None = None
    y_scale: str | None = None
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class CodeResult:
    """One result of the service's code interpreter.

    .. versionadded:: 0.1.0
    """

    text: str | None = None
    png: str | None = attrs.field(default=None, repr=mask)
    chart: Chart | None = None
    charts: tuple[Chart, ...] | None = None
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class BrowserResult:
    """One page visited by the service's browser.

    .. versionadded:: 0.1.0
    """

    url: str
    title: str
    live_view_url: str | None = None
    content: str | None = None
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class ExecutedTool:
    """A tool the service ran by itself.

    .. versionadded:: 0.1.0
    """

    index: int
    type: str
    arguments: str = attrs.field(default="", repr=mask)
    output: str | None = None
    name: str | None = None
    search_results: SearchResults | None = None
    code_results: tuple[CodeResult, ...] | None = None
    browser_results: tuple[BrowserResult, ...] | None = None
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class DocumentCitation:
    """A passage of the answer that cites a document.

    .. versionadded:: 0.1.0
    """

    start_index: int
    end_index: int
    document_id: str | None = None
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class FunctionCitation:
    """A passage of the answer that cites the result of a tool call.

    .. versionadded:: 0.1.0
    """

    start_index: int
    end_index: int
    tool_call_id: str | None = None
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class Annotation:
    """A citation inside the answer.

    .. versionadded:: 0.1.0
    """

    type: str
    document_citation: DocumentCitation | None = None
    function_citation: FunctionCitation | None = None
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class MCPTool:
    """A tool that a remote MCP server offers.

    .. versionadded:: 0.1.0
    """

    name: str
    description: str | None = None
    input_schema: Any = None
    annotations: Any = None
    extra: Mapping[str, Any] = _extra


@attrs.frozen(kw_only=True)
class MCPToolList:
    """The tools of one remote MCP server.

    .. versionadded:: 0.1.0
    """

    id: str | None = None
    type: str | None = None
    server_label: str | None = None
    tools: tuple[MCPTool, ...] | None = None
    extra: Mapping[str, Any] = _extra
