"""The wire, pure: bytes, headers and numbers in, values out. No socket, no thread, no clock.

What this service, gateways in front of it and compatible servers have been seen to send, and what it is read as:

=================================================  ========================================================================================================
**Tool calls in a stream**
a new id and a name under an index in use          a new call, under an index of its own for the reader
a name without index and id                        a new call
a fresh id without a name                          more of the same call
arguments as an object; a number as id             their JSON text; its text
**Text**
the halves of a character in two chunks            the character; a half that stays alone is U+FFFD
content as a list of parts                         their texts, joined
``message`` in place of ``delta``                  a delta
``finish_reason: "error"``                         an error; of which class, ``choices[0].error`` may say
``finish_reason: "null"`` or ``""``                no finish reason
**Events of a stream**
empty data                                         nothing; it renews no time limit
``event: ping``, any name but those of chunks      nothing, whatever its data; chunks are called nothing, ``message`` or as their ``object``
``event: error`` in plain words                    ``StreamInterruptedError`` with these words
after a finish reason, what cannot be read         the end of the stream
an event stream labelled as JSON or HTML           an event stream, by its first bytes
one event of up to 64 MiB                          an event: a plain answer may be as large
**Errors**
``{"error": …}`` under status 200, or as an event  the class that its code gives, else its status: ``status_code``, or 400 to 599 as ``code`` or ``status``
``{"error": "text"}``, ``{"object": "error", …}``  the same, with these words
an error body of up to 4 MiB                       whole; of a longer one class, code and the beginning of its text
a code of this service as ``error.type``           the code
``error_description``; an error alone in a list    its message; the error
HTML; XML; a body in br or zstd                    its title; its words; the name of its coding
control characters in a server's words             escaped: a terminal shows them, and does nothing
**Usage**
``{}``, nulls, zeros, below 0, above 100 million   no report: ``source="estimated"``, the reservation is kept; an earlier report stays
**Waits and limits**
"try again in 2 minutes", hours, days              the seconds; with a unit that nobody knows it is not read
``Retry-After`` twice; as Unix time or HTTP date   the longer one; the time until then
a reset beyond its period                          left out: what is left of the limit says when it is full
a reset that ``remaining`` contradicts             left out, where they differ by half the period or more
a limit or remaining above 999,999,999             left out; more left than there is counts as all of it
**Fields that a reader can do without**
one of another type, such as ``created: "now"``    ``None``, of a list the entries that can be read; ``raw`` has what came
=================================================  ========================================================================================================

What an answer cannot do without (choices, message, content, calls, indices) must be of its type: else the error names the place.
"""
