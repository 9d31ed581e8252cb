"""The second run: suites that were written for HTTP/1.1, over HTTP/2.

Wires by name:

- ``bridge``: each plain-HTTP base URL is reached through a :class:`http2_bridge.Bridge` of its own.
- ``nginx``: the same through nginx.
- ``fallback``: ``http2=True`` towards the suite's own TLS servers, which know no ALPN, so that HTTP/1.1 is what is left.

What is not run again stands in ``LEFT_OUT``, by name and with its reason; ``test_http2_again.py`` sees to it that nothing else is.
"""

from __future__ import annotations

import fnmatch
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fakes import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

#: Which suites run again, over which wires. Not here: suites without sockets (test_engine and all of the limiter's), those whose
#: subject is another (the emulator, the command line, processes), and test_transport, whose subject is the pool of HTTP/1.1.
SUITES: dict[str, tuple[str, ...]] = {
    "test_stream": ("bridge", "nginx"),
    "test_cancel": ("bridge",),
    "test_time_limits": ("bridge",),
    "test_faults_streams": ("bridge",),
    "test_faults_content": ("bridge",),
    "test_faults_wire": ("bridge",),
    "test_faults_process": ("bridge",),
    "test_transport_faults": ("bridge",),
    "test_transport_tls": ("fallback",),
    "test_provider": ("bridge",),
    "test_bulk": ("bridge",),
    "test_threads": ("nginx",),
    "test_soak": ("nginx",),
}

#: Whose short limits are for what the service does, and not for a bridge that gets going and makes a handshake: that is done before.
WARM = frozenset({"test_faults_streams", "test_stream", "test_time_limits"})

FRAMING = "about the framing or the heads of HTTP/1.1; test_http2_frames.py has what corresponds to it"
POOL = "looks into the pool of HTTP/1.1; test_http2_streams.py and test_http2_frames.py have kept connections of HTTP/2"

BEHIND = "counts connections at the emulator: those behind the wire are another matter than those in front of it"
LATE_HEAD = "nginx sends the head of an answer with the first bytes of its body; the bridge sends it as it comes"

ALONE = "makes no connection: nothing of it would be over HTTP/2"
BELOW = "about the time before there is a connection; test_http2_streams.py has connecting over HTTP/2"
OWN_TLS = "a server of its own that speaks TLS: the same case without TLS goes through the bridge, which speaks it, too"
OTHER_PROCESS = (
    "makes its provider in another process, which the second run does not reach; see the forks in test_http2.py"
)
WORDS = "expects the words of an error of HTTP/1.1; test_http2_frames.py has what corresponds to it"
PROXIED = "leads through a proxy to a plain server; test_http2.py has tunnels"
MEMORY = "measures this process, in which the bridge holds some, too; test_http2_streams.py has what a reader holds"
DROPPED = "waits until the connection of a whole answer is dropped; a stream that is over costs no connection"

#: Suite, wire or ``*``, reason, and names of tests, those with parameters as patterns of fnmatch (``[`` and ``]`` stand for themselves).
_GROUPS: list[tuple[str, str, str, tuple[str, ...]]] = [
    (
        "test_stream",
        "nginx",
        BEHIND,
        (
            "test_the_connection_serves_again_after_the_end",
            "test_cancelling_after_the_end_changes_nothing",
        ),
    ),
    (
        "test_stream",
        "nginx",
        FRAMING,
        ("test_a_stream_that_goes_wrong_raises_its_own_error[* chunk size]",),
    ),
    (
        "test_stream",
        "nginx",
        LATE_HEAD,
        (
            "test_poll_says_whether_next_would_wait",
            "test_leaving_before_the_first_token_records_nothing",
            "test_the_first_token_has_a_limit_of_its_own[nothing]",
            "test_one_token_ends_many_streams",
        ),
    ),
    (
        "test_cancel",
        "*",
        ALONE,
        (
            "test_a_callback_runs_once_whenever_it_was_subscribed",
            "test_threads_that_subscribe_while_it_is_cancelled_all_hear_of_it",
            "test_a_signal_handler_may_cancel_at_any_line",
            "test_a_real_signal_handler_does_not_deadlock",
        ),
    ),
    (
        "test_cancel",
        "*",
        BELOW,
        (
            "test_a_cancel_ends_a_call_wherever_it_waits[connect-*]",
            "test_ctrl_c_ends_a_call_wherever_it_waits[connect]",
        ),
    ),
    (
        "test_cancel",
        "*",
        OWN_TLS,
        (
            "test_a_cancel_ends_a_call_wherever_it_waits[*TLS*]",
            "test_ctrl_c_ends_a_call_wherever_it_waits[*TLS*]",
            "test_a_generator_that_is_closed_leaves_nothing_behind[TLS-*]",
        ),
    ),
    (
        "test_cancel",
        "*",
        "needs the answer in one read; test_http2_streams.py has it",
        ("test_an_answer_that_had_all_arrived_is_whole",),
    ),
    (
        "test_faults_streams",
        "*",
        OTHER_PROCESS,
        ("test_a_stream_open_at_the_end_of_the_interpreter_is_settled_once",),
    ),
    (
        "test_faults_streams",
        "*",
        ALONE,
        ("test_a_child_does_not_settle_for_its_parent",),
    ),
    (
        "test_faults_streams",
        "*",
        FRAMING,
        ("test_a_stream_ends_once[bad chunk]",),
    ),
    (
        "test_time_limits",
        "*",
        OWN_TLS,
        ("test_the_total_bounds_the_tls_handshake",),
    ),
    (
        "test_time_limits",
        "*",
        ALONE,
        (
            "test_nothing_is_sent_with_less_than_fifty_milliseconds_left",
            "test_a_call_with_little_time_from_the_start_is_made_all_the_same",
            "test_a_delay_leaves_time_for_the_try_after_it",
            "test_limits_of_a_try_start_with_each_and_end_with_the_total",
            "test_making_the_body_counts",
            "test_what_moves_the_deadline_of_a_stream",
            "test_time_the_reader_spends_is_not_the_services_silence",
            "test_waits_that_are_not_bounded_are_not_bounded",
        ),
    ),
    (
        "test_time_limits",
        "*",
        BELOW,
        (
            "test_the_total_bounds_connecting",
            "test_connect_bounds_connecting",
        ),
    ),
    (
        "test_transport_faults",
        "*",
        ALONE,
        ("test_every_foreign_error_is_mapped",),
    ),
    (
        "test_transport_faults",
        "*",
        FRAMING,
        (
            "test_bytes_after_the_body_drop_the_connection",
            "test_both_framings_at_once_drop_the_connection",
            "test_odd_but_clear_framing_is_read[lengths-in-one]",
            "test_odd_but_clear_framing_is_read[folded]",
            "test_odd_but_clear_framing_is_read[bare-lf]",
            "test_answer_without_a_body_by_its_status_is_not_waited_for",
            "test_odd_but_clear_framing_is_read[http-1.0]",
            "test_broken_body_is_an_error[*-long-size-line]",
            "test_broken_body_is_an_error[*-long-trailer]",
            "test_broken_head_is_a_protocol_error",
            "test_wrong_length_is_not_trusted_beyond_the_body",
            "test_a_head_ends_where_it_ends",
        ),
    ),
    (
        "test_transport_faults",
        "*",
        BELOW,
        (
            "test_cancel_wakes_a_connect",
            "test_connecting_ends_at_its_limit",
            "test_live_address_behind_a_dead_one_is_reached",
            "test_refused_connection_is_not_sent",
        ),
    ),
    (
        "test_transport_faults",
        "*",
        POOL,
        ("test_cancelled_call_is_not_sent",),
    ),
    (
        "test_transport_faults",
        "*",
        WORDS,
        (
            "test_ready_does_not_swallow_a_reset",
            "test_messages_name_the_place",
        ),
    ),
    (
        "test_faults_wire",
        "*",
        BELOW,
        (
            "test_fault_*[1]",
            "test_fault_*[2-*]",
            "test_fault_*[3]",
            "test_fault_*[3-deadline]",
            "test_fault_*[4-*]",
            "test_fault_*[5]",
        ),
    ),
    (
        "test_faults_wire",
        "*",
        OWN_TLS,
        (
            "test_fault_*[5-handshake]",
            "test_fault_*[6-*]",
            "test_fault_*[7]",
            "test_fault_*[7-deadline]",
            "test_fault_*[14-tls]",
        ),
    ),
    (
        "test_faults_wire",
        "*",
        PROXIED,
        ("test_fault_*[8-*]",),
    ),
    (
        "test_faults_wire",
        "*",
        POOL,
        (
            "test_fault_*[11]",
            "test_fault_*[12]",
            "test_fault_*[12-*]",
        ),
    ),
    (
        "test_faults_wire",
        "*",
        FRAMING,
        (
            "test_fault_*[15-*]",
            "test_fault_*[16-*]",
            "test_fault_*[35-*]",
            "test_fault_*[19]",
            "test_fault_*[20]",
            "test_fault_*[21]",
            "test_fault_*[21-*]",
            "test_fault_*[22-both]",
            "test_fault_*[22-garbage]",
            "test_fault_*[36-*]",
            "test_wire_faults_never_pass_as_success",
        ),
    ),
    (
        "test_faults_wire",
        "*",
        DROPPED,
        (
            "test_fault_*[37-not-gzip]",
            "test_fault_*[37-nine-encodings]",
        ),
    ),
    (
        "test_faults_wire",
        "*",
        ALONE,
        (
            "test_bad_base_url_is_refused_at_construction",
            "test_table_is_whole",
        ),
    ),
    (
        "test_faults_wire",
        "*",
        MEMORY,
        ("test_too_large_an_answer_uses_little_memory",),
    ),
    (
        "test_transport_tls",
        "*",
        ALONE,
        ("test_context_pins_its_protocols",),
    ),
    (
        "test_transport_tls",
        "*",
        "counts contexts: there are two, one for each list of protocols",
        ("test_ca_bundle_is_loaded_once",),
    ),
    (
        "test_transport_tls",
        "*",
        POOL,
        (
            "test_warmed_connections_are_used",
            "test_connection_closed_while_idle_is_replaced_silently",
            "test_bytes_of_after_the_body_drop_the_connection",
        ),
    ),
    (
        "test_provider",
        "*",
        ALONE,
        (
            "test_a_provider_is_a_provider",
            "test_signatures_are_promises",
            "test_type_name_and_repr",
            "test_the_mock_of_the_design_document",
            "test_a_wrong_setting_is_found_at_construction",
            "test_a_configuration_file_that_is_no_yaml_is_one_clear_error",
            "test_models_are_the_configured_ones_in_order_or_the_catalogue",
            "test_capabilities_are_the_union_over_the_models",
            "test_the_fastest_models_come_first",
            "test_a_disabled_provider_refuses_every_call",
            "test_a_key_in_the_wrong_place_is_not_shown",
            "test_a_provider_with_parts_of_the_callers_does_not_pickle",
            "test_wrong_parts_are_named_at_construction",
        ),
    ),
    (
        "test_bulk",
        "*",
        ALONE,
        (
            "test_results_keep_the_order_of_the_input",
            "test_results_may_come_as_they_finish",
            "test_every_item_has_exactly_one_result",
            "test_an_empty_input_gives_nothing",
            "test_an_endless_input_is_read_as_far_as_needed",
            "test_an_error_is_a_result",
            "test_an_item_that_is_no_request_is_a_result_with_an_error",
            "test_a_bug_in_one_item_does_not_take_the_others_with_it",
            "test_items_may_be_text_messages_or_requests",
            "test_the_number_of_workers_is_checked",
            "test_a_number_of_workers_stays",
            "test_one_prompt_instead_of_many_is_refused",
            "test_an_input_that_fails_raises_after_what_was_under_way",
            "test_cancelling_ends_what_is_unfinished_and_takes_no_more",
            "test_a_cancelled_token_begins_nothing",
            "test_leaving_early_ends_what_is_unfinished",
            "test_a_forgotten_run_is_collected_and_ends_its_work",
            "test_an_interrupt_ends_the_run_and_propagates",
            "test_a_worker_that_is_told_to_exit_does_not_hang_the_run",
            "test_context_variables_reach_the_workers",
            "test_a_result_is_a_value",
            "test_it_takes_more_workers_while_all_are_busy",
            "test_it_starts_no_thread_before_it_is_needed",
            "test_it_takes_as_many_as_a_service_works_on_at_once",
            "test_a_burst_of_refusals_halves_the_workers_once",
            "test_a_slow_input_gets_no_more_workers",
            "test_waiting_in_the_limiter_brings_no_more_workers",
            "test_context_variables_reach_changing_workers",
            "test_a_system_without_further_threads_makes_do",
            "test_a_wrong_answer_does_not_hang_the_run",
            "test_what_an_item_says_of_the_load",
        ),
    ),
    (
        "test_faults_process",
        "*",
        ALONE,
        (
            "test_cases_held_elsewhere_are_there",
            "test_72_the_limiter_does_not_look_at_the_wall_clock",
            "test_72_the_breaker_does_not_look_at_the_wall_clock",
        ),
    ),
    (
        "test_provider",
        "*",
        BELOW,
        ("test_a_server_that_is_not_there_is_one_clear_error",),
    ),
    (
        "test_provider",
        "*",
        BEHIND,
        (
            "test_availability_is_cheap_and_silent",
            "test_prewarming_opens_connections_at_construction",
        ),
    ),
    ("test_faults_process", "*", OTHER_PROCESS, ("test_79_the_interpreter_ends_while_daemon_threads_wait",)),
    (
        "test_faults_process",
        "*",
        "a thousand threads take the bridge to its limits; test_http2_load.py has 256 on real servers",
        ("test_80_a_thousand_threads_share_one_provider",),
    ),
]

#: The same one by one: suite, wire or ``*``, name or pattern, reason.
LEFT_OUT = [(suite, wire, name, reason) for suite, wire, reason, names in _GROUPS for name in names]


def is_left_out(suite: str, wire: str, name: str) -> str | None:
    """Return the reason for which a test is not run over a wire."""
    for where, over, pattern, reason in LEFT_OUT:
        if where == suite and over in ("*", wire) and matches(name, pattern):
            return reason
    return None


def matches(name: str, pattern: str) -> bool:
    """Say whether a test's name matches; a pattern without parameters stands for all of them."""
    if "[" not in pattern:
        name = name.partition("[")[0]
    return fnmatch.fnmatchcase(name, pattern.replace("[", "[[]"))


def split_name(name: str, wires: tuple[str, ...]) -> tuple[str, str]:
    """Return a test's wire and its name without it."""
    first, bracket, ids = name.partition("[")
    ids = ids[:-1]
    for wire in (*wires, "http1"):
        if ids == wire:
            return wire, first
        if ids.startswith(wire + "-"):
            return wire, f"{first}[{ids[len(wire) + 1 :]}]"
    return "http1", first + (f"[{ids}]" if bracket else "")


def is_left_out_item(item: pytest.Item) -> bool:
    """Say whether a collected test is not run over its wire."""
    wire = getattr(item, "callspec", None) and item.callspec.params.get("wire")
    if wire not in SUITES.get(item.path.stem, ()):  # also where a test of another suite has an argument of that name
        return False
    _, name = split_name(item.name, (wire,))
    return is_left_out(item.path.stem, wire, name) is not None


class Wire:
    """Where providers of a test are led to.

    Attributes:
        kind: Its name; ``http1``: where they wanted to go.
        used: How many transports were made with HTTP/2.
    """

    def __init__(self, kind: str, suite: str = "") -> None:
        self.kind = kind
        self.used = 0
        self._warm = suite in WARM
        self._bridges: dict[str, Any] = {}

    def lead(self, base_url: str, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the base URL and settings of a transport that reaches the same server over HTTP/2."""
        from http2_servers import authority

        parts = urlsplit(base_url)
        settings = {**settings, "http2": True}
        if self.kind == "fallback":
            self.used += 1
            return base_url, settings
        if parts.scheme != "http":
            return base_url, settings
        self.used += 1
        settings["ca_bundle"] = authority().file
        origin = f"http://{parts.netloc}"
        if self.kind == "nginx":
            from http2_real import shared_nginx

            return f"{shared_nginx().url}/to/{parts.port}{parts.path}", settings
        from http2_bridge import Bridge

        if origin not in self._bridges:
            self._bridges[origin] = Bridge(origin)
        return f"https://127.0.0.1:{self._bridges[origin].port}{parts.path}", settings

    @property
    def bridges(self) -> list[Any]:
        return list(self._bridges.values())

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Lead every transport that is made from now."""
        from groq_provider.transport.session import SessionTransport

        made: Callable[..., None] = SessionTransport.__init__

        def lead(transport: Any, base_url: str, **settings: Any) -> None:
            place, settings = self.lead(base_url, settings)
            made(transport, place, **settings)
            if self._warm and place != base_url:
                transport.warm_up(1, timeout=PATIENCE)

        monkeypatch.setattr(SessionTransport, "__init__", lead)
        if self.kind == "bridge":
            from groq_provider.transport.http2_pool import Http2Pool

            monkeypatch.setattr(Http2Pool, "idle", lambda pool: self.idle(pool))  # noqa: PLW0108 - becomes a method

    def idle(self, pool: Any) -> int:
        """Count the connections behind the bridges that can serve again: what a connection of HTTP/1.1 is to a suite.

        The bridges hear of what a client gives up a moment later, so that a wait is for as many streams as the client has.
        """
        deadline = time.monotonic() + PATIENCE
        while sum(bridge.unfinished for bridge in self.bridges) != sum(
            len(connection._frames.streams) for connection in list(pool._connections)
        ):
            assert time.monotonic() < deadline, "the bridges do not hear of what a client has given up"
            time.sleep(0.001)
        return sum(len(peer.kept) for bridge in self.bridges for peer in bridge.peers)

    def close(self) -> None:
        """End the bridges; raise what went wrong in them and what clients did wrong."""
        for bridge in self.bridges:
            bridge.close()
