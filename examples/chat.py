"""A conversation of several turns: the history grows by each question and its answer.

Talks to Groq if GROQ_API_KEY is set, else to the bundled emulator. Give your questions as arguments, or use those below.
"""

import sys

from groq_provider import Message
from groq_provider.testing import demo_provider

QUESTIONS = ["What is a mutex?", "And how does a semaphore differ from it?", "Which of the two fits a pool of ten?"]


def main(questions: list[str]) -> None:
    history = [Message.system("Answer in one short sentence.")]
    with demo_provider() as provider:  # in your program: GroqProvider()
        for question in questions:
            print(f"You: {question}\nModel: ", end="")
            history.append(Message.user(question))
            with provider.generate_stream(history, max_completion_tokens=300, timeout=30) as stream:
                for chunk in stream:
                    print(chunk.content, end="", flush=True)
            # ``message`` holds the part of the answer that you may send back; the reasoning is not in it.
            history.append(stream.response.message)
            print(f"\n[{len(history)} messages, {stream.response.usage.prompt_tokens} prompt tokens]")


if __name__ == "__main__":
    main(sys.argv[1:] or QUESTIONS)
