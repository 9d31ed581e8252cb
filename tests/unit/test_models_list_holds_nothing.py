"""Asking the service for its models holds up no other thread that asks."""

from __future__ import annotations

import threading

from support.fakes import PATIENCE

from groq_provider.resources.models import Models


def test_a_slow_answer_delays_nobody():
    """While one thread waits for the network, another thread gets its own answer."""
    asked, release = threading.Event(), threading.Event()

    def slow():
        asked.set()
        assert release.wait(PATIENCE)
        return {"data": [{"id": "late/model"}]}

    models = Models((), lambda: {"data": [{"id": "quick/model"}]}, with_catalogue=False)
    thread = threading.Thread(target=lambda: models.list(refresh=True, fetch=slow))
    thread.start()
    try:
        assert asked.wait(PATIENCE)
        assert [model.id for model in models.list(refresh=False)] == ["quick/model"]
    finally:
        release.set()
        thread.join(PATIENCE)
    assert [model.id for model in models.list(refresh=False)] == ["late/model"]
