"""One provider shared by many threads: with your own pool, and with generate_many.

Talks to Groq if GROQ_API_KEY is set, else to the bundled emulator.
"""

from concurrent.futures import ThreadPoolExecutor

from groq_provider import FAST_MODEL, GroqProvider, LLMRequest
from groq_provider.testing import demo_provider

CITIES = ["Oslo", "Lima", "Quito", "Hanoi", "Accra", "Sofia"]


def own_pool(provider: GroqProvider, threads: ThreadPoolExecutor) -> None:
    """Call one provider from your own threads: they share its connections and limits."""

    def ask(city: str) -> str:
        return provider.generate(f"Name a river near {city}.", max_completion_tokens=150).content

    for city, answer in zip(CITIES, threads.map(ask, CITIES), strict=True):
        print(f"{city}: {answer}")


def bulk(provider: GroqProvider) -> None:
    """Let the library start the threads: results come in order, and an error is a result."""
    requests = [
        LLMRequest(messages=f"Name a dish of {city}.", custom_id=city, max_completion_tokens=150) for city in CITIES
    ]
    # One item that the service refuses, to show that it does not stop the others.
    requests.append(LLMRequest(messages="Hello", custom_id="Atlantis", model="no-such-model"))
    with provider.generate_many(requests, max_workers=4, timeout=30) as results:
        for result in results:
            if result.error is not None:
                print(f"{result.custom_id}: {type(result.error).__name__}")
            elif result.response is not None:
                print(f"{result.custom_id}: {result.response.content}")


def main() -> None:
    # Put the provider inside the pool: after Ctrl-C or an error it closes first, which ends the calls that the threads wait for.
    with (
        ThreadPoolExecutor(max_workers=4) as threads,
        demo_provider(model=FAST_MODEL) as provider,  # in your program: GroqProvider()
    ):
        print("ThreadPoolExecutor")
        own_pool(provider, threads)
        print("generate_many")
        bulk(provider)
        for model, status in provider.get_rate_limits().items():
            for name, window in status.windows.items():
                print(f"{model} {name.upper()}: {window.remaining:,} of {window.limit:,} left ({window.source})")


if __name__ == "__main__":
    main()
