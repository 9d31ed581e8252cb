"""Read and write what goes over the wire, as pure functions: bytes, headers and numbers in, values out; no socket, thread or clock.

- ``sse``: bytes of an event stream into lines, lines into events
- ``assemble``: the chunks of a stream into one answer
- ``tool_calls``: fragments of tool calls into whole calls
- ``codec``: requests into bodies, plain answers into fields, and the parts that plain answers and chunks share
- ``converter``: values into JSON objects and back, by cattrs; used for the rare fields
- ``json_fields``: fields of decoded JSON, strictly or leniently
- ``json_text``: JSON text, read and written, with bounds on size and depth
- ``json_pieces``: JSON texts of more than 64 KiB, a piece at a time
- ``upload``: files and multipart forms as bodies, opened anew for each attempt
- ``headers``: rate-limit headers, ``retry-after``, durations
- ``failures``: an error answer into the right exception; redacts the key
- ``query``: query parameters into text

To accept a new form that a server sends, change the module that reads it and add the form to this table. It lists the forms that this
service, gateways in front of it and compatible servers have been seen to send, and how this package reads them:

=================================================  ========================================================================================================
**Tool calls in a stream**
a new id and a name under an index in use          a new call, under an unused index
a name without index and id                        a new call
a fresh id without a name                          more of the same call
arguments as an object; a number as id             their JSON text; its text
**Text**
the halves of a character in two chunks            the character, in each choice; a half without the other becomes U+FFFD
content as a list of parts                         their texts, joined
``message`` in place of ``delta``                  a delta
``finish_reason: "error"``                         an error; ``choices[0].error`` may give its class
``finish_reason: "null"`` or ``""``                no finish reason
**Events of a stream**
empty data                                         ignored; the idle time limit runs on
``event: ping`` and other names                    ignored; an event is a chunk if it has no name, or ``message``, or its ``object`` as name
``event: error`` with a plain text                 ``StreamInterruptedError`` with this text
an unreadable event after a finish reason          the end of the stream
an event stream labelled as JSON or HTML           an event stream, by its first bytes
one event of up to 64 MiB                          an event: a plain answer may be as large
**Errors**
``{"error": …}`` under status 200, or as an event  an error of the class of its code, else of its status (``status_code``, or 400 to 599 as ``code`` or ``status``)
``{"error": "text"}``, ``{"object": "error", …}``  the same, with this text
an error body of up to 4 MiB                       read completely; a longer one gives class, code and the beginning of its text
a code of this service as ``error.type``           the code
``error_description``; an error alone in a list    its message; the error
HTML; XML; a body in br or zstd                    its title; its words; the name of its coding
control characters in a server's text              escaped, so that they cannot control a terminal
**Usage**
``{}``, nulls, zeros, below 0, above 100 million   no report: ``source="estimated"``, and the reservation or an earlier report is kept
**Waits and limits**
"try again in 2 minutes", hours, days              the seconds; ignored with an unknown unit
``Retry-After`` twice; as Unix time or HTTP date   the longer one; the time until then
a reset longer than its period                     ignored: the remainder tells when the limit is full
a reset that ``remaining`` contradicts             ignored if they differ by half the period or more
a limit or remaining above 999,999,999             ignored; a remainder above its limit counts as the limit
**Lenient fields**
another type, such as ``created: "now"``           ``None``, or the readable entries of a list; ``raw`` has the original
=================================================  ========================================================================================================

Choices, messages, content, tool calls and indices are strict: with another type the answer is refused, and the error names the place.
"""
