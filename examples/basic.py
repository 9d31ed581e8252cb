"""Ask one question and read the answer, its usage and its timing.

Talks to Groq if GROQ_API_KEY is set, else to the bundled emulator.
"""

from groq_provider import LLMRequest
from groq_provider.testing import demo_provider


def main() -> None:
    request = LLMRequest(
        messages="Explain Groq LPU technology.",
        model="openai/gpt-oss-120b",
        max_completion_tokens=500,
        temperature=0.7,
    )
    with demo_provider() as provider:  # in your program: GroqProvider()
        response = provider.generate(request)

    print(response.content)
    print(f"Latency: {response.timing.total * 1000:.0f} ms")
    print(f"Tokens: {response.usage.total_tokens} ({response.usage.source})")
    print(f"Attempts: {len(response.attempts)}")


if __name__ == "__main__":
    main()
