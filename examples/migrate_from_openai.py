"""From the openai package to groq_provider: the same messages, another client, another model name.

Before::

    from openai import OpenAI

    client = OpenAI()                                          # OPENAI_API_KEY
    completion = client.chat.completions.create(model="gpt-4o", messages=messages, max_tokens=300)
    print(completion.choices[0].message.content)

    for event in client.chat.completions.create(model="gpt-4o", messages=messages, max_tokens=300, stream=True):
        if event.choices and event.choices[0].delta.content:
            print(event.choices[0].delta.content, end="")

Talks to Groq if GROQ_API_KEY is set, else to the bundled emulator.
"""

from groq_provider import MODEL_MIGRATION
from groq_provider.testing import demo_provider

# Unchanged: the message format is the same.
messages = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "Why is the sky blue?"},
]


def main() -> None:
    # A suggestion that the library never applies by itself. Groq serves open models: you should compare the answers before you switch.
    model = MODEL_MIGRATION["gpt-4o"]
    print(f"gpt-4o -> {model}")

    with demo_provider() as provider:  # in your program: GroqProvider(), which reads GROQ_API_KEY
        response = provider.generate(messages, model=model, max_tokens=300)
        print(response.content)

        with provider.generate_stream(messages, model=model, max_tokens=300) as stream:
            for chunk in stream:
                print(chunk.content, end="", flush=True)
        print()

        # Your limits differ from those at OpenAI: you should check them.
        limits = response.rate_limit
        if limits is not None:
            print(f"Limits: {limits.limit_requests:,} requests per day, {limits.limit_tokens:,} tokens per minute")


if __name__ == "__main__":
    main()
