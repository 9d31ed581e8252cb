"""The second run: suites that were written for HTTP/1.1, over HTTP/2.

Wires by name:

- ``bridge``: each plain-HTTP base URL is reached through a :class:`http2_servers.Bridge` of its own.
- ``nginx``: the same through nginx.
- ``fallback``: ``http2=True`` towards the suite's own TLS servers, which know no ALPN, so that HTTP/1.1 is what is left.

What is not run again stands in ``LEFT_OUT``, by name and with its reason; ``test_http2_again.py`` sees to it that nothing else is.
"""

from __future__ import annotations

import fnmatch
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

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
    "test_bulk": ("nginx",),
    "test_threads": ("nginx",),
    "test_soak": ("nginx",),
}

FRAMING = "about the framing or the heads of HTTP/1.1; test_http2_frames.py has what corresponds to it"
POOL = "looks into the pool of HTTP/1.1; test_http2_streams.py and test_http2_frames.py have kept connections of HTTP/2"

BEHIND = "counts connections at the emulator: nginx makes one for each request here, whatever is in front of it"
LATE_HEAD = "nginx sends the head of an answer with the first bytes of its body; the bridge sends it as it comes"

ALONE = "makes no connection: nothing of it would be over HTTP/2"
BELOW = "about the time before there is a connection; test_http2_streams.py has connecting over HTTP/2"
OWN_TLS = "a server of its own that speaks TLS: the same case without TLS goes through the bridge, which speaks it, too"
OTHER_PROCESS = "makes its provider in another process, which the second run does not reach; see the forks in test_http2.py"
WORDS = "expects the words of an error of HTTP/1.1; test_http2_frames.py has what corresponds to it"
PROXIED = "leads through a proxy to a plain server; test_http2.py has tunnels"
MEMORY = "measures this process, in which the bridge holds some, too; test_http2_streams.py has what a reader holds"

#: Suite, wire or ``*``, name of the test with its parameters as a pattern of fnmatch (``[`` and ``]`` stand for themselves), reason.
LEFT_OUT: list[tuple[str, str, str, str]] = [
    ("test_stream", "nginx", "test_the_connection_serves_again_after_the_end", BEHIND),
    ("test_stream", "nginx", "test_cancelling_after_the_end_changes_nothing", BEHIND),
    ("test_stream", "nginx", "test_a_stream_that_goes_wrong_raises_its_own_error[* chunk size]", FRAMING),
    ("test_stream", "nginx", "test_poll_says_whether_next_would_wait", LATE_HEAD),
    ("test_stream", "nginx", "test_leaving_before_the_first_token_records_nothing", LATE_HEAD),
    ("test_stream", "nginx", "test_the_first_token_has_a_limit_of_its_own[nothing]", LATE_HEAD),
    ("test_stream", "nginx", "test_one_token_ends_many_streams", LATE_HEAD),
    ("test_cancel", "*", "test_a_callback_runs_once_whenever_it_was_subscribed", ALONE),
    ("test_cancel", "*", "test_threads_that_subscribe_while_it_is_cancelled_all_hear_of_it", ALONE),
    ("test_cancel", "*", "test_a_signal_handler_may_cancel_at_any_line", ALONE),
    ("test_cancel", "*", "test_a_real_signal_handler_does_not_deadlock", ALONE),
    ("test_cancel", "*", "test_a_cancel_ends_a_call_wherever_it_waits[connect-*]", BELOW),
    ("test_cancel", "*", "test_ctrl_c_ends_a_call_wherever_it_waits[connect]", BELOW),
    ("test_cancel", "*", "test_a_cancel_ends_a_call_wherever_it_waits[*TLS*]", OWN_TLS),
    ("test_cancel", "*", "test_ctrl_c_ends_a_call_wherever_it_waits[*TLS*]", OWN_TLS),
    ("test_cancel", "*", "test_a_generator_that_is_closed_leaves_nothing_behind[TLS-*]", OWN_TLS),
    ("test_cancel", "*", "test_an_answer_that_had_all_arrived_is_whole", "needs the answer in one read; test_http2_streams.py has it"),
    ("test_faults_streams", "*", "test_a_stream_open_at_the_end_of_the_interpreter_is_settled_once", OTHER_PROCESS),
    ("test_faults_streams", "*", "test_a_child_does_not_settle_for_its_parent", ALONE),
    ("test_faults_streams", "*", "test_a_stream_ends_once[bad chunk]", FRAMING),
    ("test_time_limits", "*", "test_the_total_bounds_the_tls_handshake", OWN_TLS),
    ("test_time_limits", "*", "test_nothing_is_sent_with_less_than_fifty_milliseconds_left", ALONE),
    ("test_time_limits", "*", "test_a_call_with_little_time_from_the_start_is_made_all_the_same", ALONE),
    ("test_time_limits", "*", "test_a_delay_leaves_time_for_the_try_after_it", ALONE),
    ("test_time_limits", "*", "test_limits_of_a_try_start_with_each_and_end_with_the_total", ALONE),
    ("test_time_limits", "*", "test_making_the_body_counts", ALONE),
    ("test_time_limits", "*", "test_what_moves_the_deadline_of_a_stream", ALONE),
    ("test_time_limits", "*", "test_time_the_reader_spends_is_not_the_services_silence", ALONE),
    ("test_time_limits", "*", "test_waits_that_are_not_bounded_are_not_bounded", ALONE),
    ("test_time_limits", "*", "test_the_total_bounds_connecting", BELOW),
    ("test_time_limits", "*", "test_connect_bounds_connecting", BELOW),
    ("test_transport_faults", "*", "test_every_foreign_error_is_mapped", ALONE),
    ("test_transport_faults", "*", "test_bytes_after_the_body_drop_the_connection", FRAMING),
    ("test_transport_faults", "*", "test_both_framings_at_once_drop_the_connection", FRAMING),
    ("test_transport_faults", "*", "test_odd_but_clear_framing_is_read[lengths-in-one]", FRAMING),
    ("test_transport_faults", "*", "test_odd_but_clear_framing_is_read[folded]", FRAMING),
    ("test_transport_faults", "*", "test_odd_but_clear_framing_is_read[bare-lf]", FRAMING),
    ("test_transport_faults", "*", "test_answer_without_a_body_by_its_status_is_not_waited_for", FRAMING),
    ("test_transport_faults", "*", "test_odd_but_clear_framing_is_read[http-1.0]", FRAMING),
    ("test_transport_faults", "*", "test_broken_body_is_an_error[*-long-size-line]", FRAMING),
    ("test_transport_faults", "*", "test_broken_body_is_an_error[*-long-trailer]", FRAMING),
    ("test_transport_faults", "*", "test_connecting_ends_at_its_limit", BELOW),
    ("test_transport_faults", "*", "test_live_address_behind_a_dead_one_is_reached", BELOW),
    ("test_transport_faults", "*", "test_refused_connection_is_not_sent", BELOW),
    ("test_transport_faults", "*", "test_cancelled_call_is_not_sent", POOL),
    ("test_transport_faults", "*", "test_broken_head_is_a_protocol_error", FRAMING),
    ("test_transport_faults", "*", "test_wrong_length_is_not_trusted_beyond_the_body", FRAMING),
    ("test_transport_faults", "*", "test_a_head_ends_where_it_ends", FRAMING),
    ("test_transport_faults", "*", "test_ready_does_not_swallow_a_reset", WORDS),
    ("test_transport_faults", "*", "test_messages_name_the_place", WORDS),
    ("test_faults_wire", "*", "test_fault_*[1]", BELOW),
    ("test_faults_wire", "*", "test_fault_*[2-*]", BELOW),
    ("test_faults_wire", "*", "test_fault_*[3]", BELOW),
    ("test_faults_wire", "*", "test_fault_*[3-deadline]", BELOW),
    ("test_faults_wire", "*", "test_fault_*[4-*]", BELOW),
    ("test_faults_wire", "*", "test_fault_*[5-handshake]", OWN_TLS),
    ("test_faults_wire", "*", "test_fault_*[6-*]", OWN_TLS),
    ("test_faults_wire", "*", "test_fault_*[7]", OWN_TLS),
    ("test_faults_wire", "*", "test_fault_*[7-deadline]", OWN_TLS),
    ("test_faults_wire", "*", "test_fault_*[14-tls]", OWN_TLS),
    ("test_faults_wire", "*", "test_fault_*[8-*]", PROXIED),
    ("test_faults_wire", "*", "test_fault_*[11]", POOL),
    ("test_faults_wire", "*", "test_fault_*[12]", POOL),
    ("test_faults_wire", "*", "test_fault_*[12-*]", POOL),
    ("test_faults_wire", "*", "test_fault_*[15-*]", FRAMING),
    ("test_faults_wire", "*", "test_fault_*[16-*]", FRAMING),
    ("test_faults_wire", "*", "test_fault_*[35-*]", FRAMING),
    ("test_faults_wire", "*", "test_fault_*[19]", FRAMING),
    ("test_faults_wire", "*", "test_fault_*[20]", FRAMING),
    ("test_faults_wire", "*", "test_fault_*[21]", FRAMING),
    ("test_faults_wire", "*", "test_fault_*[21-*]", FRAMING),
    ("test_faults_wire", "*", "test_fault_*[22-both]", FRAMING),
    ("test_faults_wire", "*", "test_fault_*[22-garbage]", FRAMING),
    ("test_faults_wire", "*", "test_fault_*[36-*]", FRAMING),
    ("test_faults_wire", "*", "test_wire_faults_never_pass_as_success", FRAMING),
    ("test_faults_wire", "*", "test_bad_base_url_is_refused_at_construction", ALONE),
    ("test_faults_wire", "*", "test_table_is_whole", ALONE),
    ("test_faults_wire", "*", "test_too_large_an_answer_uses_little_memory", MEMORY),
    ("test_transport_tls", "*", "test_context_pins_its_protocols", ALONE),
    ("test_transport_tls", "*", "test_ca_bundle_is_loaded_once", "counts contexts: there are two, one for each list of protocols"),
    ("test_transport_tls", "*", "test_warmed_connections_are_used", POOL),
    ("test_transport_tls", "*", "test_connection_closed_while_idle_is_replaced_silently", POOL),
    ("test_transport_tls", "*", "test_bytes_of_after_the_body_drop_the_connection", POOL),
]


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
    if wire in (None, "http1"):
        return False
    _, name = split_name(item.name, (wire,))
    return is_left_out(item.path.stem, wire, name) is not None


class Wire:
    """Where providers of a test are led to.

    Attributes:
        kind: Its name; ``http1``: where they wanted to go.
        used: How many transports were made with HTTP/2.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.used = 0
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
        from http2_servers import Bridge

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
            base_url, settings = self.lead(base_url, settings)
            made(transport, base_url, **settings)

        monkeypatch.setattr(SessionTransport, "__init__", lead)
        if self.kind == "bridge":
            from groq_provider.transport.http2_pool import Http2Pool

            monkeypatch.setattr(Http2Pool, "idle", lambda pool: self.idle(pool))

    def idle(self, pool: Any) -> int:
        """Count the connections behind the bridges that can serve again: what a connection of HTTP/1.1 is to a suite.

        The bridges hear of what a client gives up a moment later, so that a wait is for as many streams as the client has.
        """
        open_here = sum(len(connection._frames.streams) for connection in pool._connections)
        for _ in range(500):
            if sum(bridge.unfinished for bridge in self.bridges) == open_here:
                break
            time.sleep(0.001)
        return sum(len(peer.kept) for bridge in self.bridges for peer in bridge.peers)

    def close(self) -> None:
        """End the bridges; raise what went wrong in them and what clients did wrong."""
        for bridge in self.bridges:
            bridge.close()
