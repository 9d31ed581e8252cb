"""The emulator's table of endpoints: each request finds its one route."""

from __future__ import annotations

import pkgutil

import pytest

from groq_provider.testing import routes
from groq_provider.testing.routes import ROUTES, Route, find_route

CHAT = "/openai/v1/chat/completions"


@pytest.mark.parametrize(
    ("method", "path", "name", "parameters"),
    [
        ("POST", CHAT, "respond", {}),
        ("GET", "/openai/v1/models", "list_models", {}),
        ("GET", "/openai/v1/models/openai/gpt-oss-20b", "retrieve_model", {"id": "openai/gpt-oss-20b"}),
        ("GET", "/openai/v1/models/a%2Fb", "retrieve_model", {"id": "a%2Fb"}),
    ],
    ids=["chat", "models", "model", "encoded"],
)
def test_request_finds_its_route(method, path, name, parameters):
    """The table maps method and path to one function, and gives it the parts of the path that vary."""
    route, found_parameters = find_route(method, path)
    assert route.respond.__name__ == name
    assert found_parameters == parameters


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", CHAT), ("POST", "/openai/v1/models"), ("GET", "/openai/v1/models/"), ("GET", CHAT + "/"), ("GET", "/")],
)
def test_unknown_request_finds_none(method, path):
    """A wrong method and an unknown path are the same to the service."""
    assert find_route(method, path) == (None, {})


def test_path_literals_match_exactly():
    """A dot in a path stands for itself, and a name in the middle of a path takes all up to the rest of it."""
    route = Route("GET", "/v1.0/files/{id}/content", print)
    assert route.match("GET", "/v1.0/files/file_1/content") == {"id": "file_1"}
    assert route.match("GET", "/v1x0/files/file_1/content") is None
    assert route.match("GET", "/v1.0/files//content") is None


def test_every_module_has_row():
    """A module in ``routes/`` without a row in the table would never be asked."""
    modules = {module.name for module in pkgutil.iter_modules(routes.__path__) if not module.name.startswith("_")}
    assert modules == {route.respond.__module__.rpartition(".")[2] for route in ROUTES}


def test_rows_stand_once_each():
    """No two rows have the same method and path."""
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)
