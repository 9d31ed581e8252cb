"""Print an answer as it arrives, then its latency and speed.

Talks to Groq if GROQ_API_KEY is set, else to the bundled emulator.
"""

from groq_provider import FAST_MODEL, GroqProviderError
from groq_provider.testing import demo_provider


def main() -> None:
    with demo_provider() as provider:  # in your program: GroqProvider()
        try:
            # The ``with`` block frees the connection, even if you leave the loop early.
            with provider.generate_stream(
                "Write code to process data streams.", model=FAST_MODEL, max_completion_tokens=2000, temperature=0.7
            ) as stream:
                for chunk in stream:
                    print(chunk.content, end="", flush=True)
        except GroqProviderError as error:  # you never get a broken stream as a whole answer
            print(f"\n[broken after {len(error.partial.content) if error.partial else 0} characters: {error}]")
            return

    print()
    metadata = stream.response.provider_metadata
    print(f"First token: {metadata['first_token_latency_ms']} ms")
    print(f"Throughput: {metadata['tokens_per_second']:.2f} tokens/sec")
    print(f"Finish reason: {stream.response.finish_reason}")


if __name__ == "__main__":
    main()
