"""Make some calls and read the latency statistics.

Talks to Groq if GROQ_API_KEY is set, else to the bundled emulator.
"""

from groq_provider import FAST_MODEL
from groq_provider.testing import demo_provider


def main() -> None:
    with demo_provider(model=FAST_MODEL) as provider:  # in your program: GroqProvider()
        for number in range(10):
            # Only a stream has a first token to time.
            with provider.generate_stream(f"Say hello number {number}.", max_completion_tokens=100) as stream:
                stream.collect()

        metrics = provider.get_latency_metrics()  # or get_latency_metrics(model)
        print(f"Average first token latency: {metrics.avg_first_token_latency * 1000:.1f} ms")
        print(f"P95 first token latency: {metrics.p95_first_token_latency * 1000:.1f} ms")
        print(f"P99 first token latency: {metrics.p99_first_token_latency * 1000:.1f} ms")
        print(f"Average throughput: {metrics.avg_tokens_per_second:.2f} tokens/sec")
        print(f"Sample count: {metrics.sample_count}")
        print(f"Errors: {metrics.error_count}")


if __name__ == "__main__":
    main()
