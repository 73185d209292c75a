"""What people ask and agents answer, in small pieces that ``rows`` puts together. Nothing here was ever said."""

from __future__ import annotations

from itertools import permutations

from metamon_assets.simulation.arrivals import QUESTIONS

ANSWERS = 20  # stock answers per agent

# For each agent of world.AGENTS: beginnings and subjects of questions, and sentences of answers.
_ASKED: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        (
            "Where is",
            "How do I return",
            "Can I still change",
            "I was charged twice for",
            "What does the warranty cover for",
            "How long until you refund",
            "I never received the confirmation for",
            "Please cancel",
        ),
        ("my last order", "the blue desk lamp", "my subscription", "the parcel for our office", "the replacement part", "the gift card"),
    ),
    (
        (
            "Summarise what is known about",
            "Compare three suppliers of",
            "Find recent figures on",
            "Who are the main critics of",
            "Write a briefing on",
        ),
        (
            "heat pumps in old houses",
            "remote work and retention",
            "the market for used batteries",
            "urban tree planting",
            "open data in city transport",
            "rail freight since 2015",
            "cold storage for vegetables",
        ),
    ),
    (
        (
            "Fix the failing test in",
            "Why is this slow:",
            "Add a command line option to",
            "Write a migration for",
            "Explain the race in",
            "Refactor",
        ),
        ("the invoice parser", "our upload worker", "the session cache", "the search index", "the report exporter", "the login form"),
    ),
    (
        (
            "Draft a follow-up to",
            "What did we last quote to",
            "Which contracts end this quarter with",
            "Prepare a call with",
            "Qualify this lead from",
        ),
        (
            "the clinic in the north",
            "a chain of bakeries",
            "the regional bus operator",
            "a small law firm",
            "the trade school",
            "our largest reseller",
        ),
    ),
    (
        ("Plot", "What explains the drop in", "Forecast", "Find outliers in", "Break down by region:"),
        (
            "weekly active users",
            "returns per product line",
            "delivery times",
            "margin by channel",
            "support tickets since May",
            "energy use per site",
        ),
    ),
    (
        ("Find an hour next week for", "Move to Thursday:", "Who is free for", "Cancel", "Set a reminder for"),
        ("the budget review", "the interview with the designer", "our planning round", "the supplier call", "the safety training"),
    ),
)

_ANSWERED: tuple[tuple[str, ...], ...] = (
    (
        "I have looked up the order and it left our warehouse this morning.",
        "The amount goes back to the card that was used, usually within five working days.",
        "You can print the return label from your account page.",
        "If anything else is unclear, just reply to this message.",
        "The warranty covers parts and labour for two years.",
    ),
    (
        "Three independent sources agree on the direction, but not on the size of the effect.",
        "The most recent figures cover only the first half of the year.",
        "Critics point out that the sample leaves out small firms.",
        "A table with the sources follows below.",
        "Prices fell faster than most forecasts had assumed.",
    ),
    (
        "The test fails because the fixture is closed before the worker has finished.",
        "I moved the lookup out of the loop, which removes most of the queries.",
        "All 212 tests pass after the change.",
        "The option is documented in the help text and has a default that keeps the old behaviour.",
        "The diff touches two files.",
    ),
    (
        "The last quote was sent in spring and has not been answered.",
        "I suggest a short call before the renewal date.",
        "The draft keeps to three points and asks one question.",
        "Two contacts have changed since the last visit.",
        "The contract ends with the quarter and renews by itself.",
    ),
    (
        "The drop is confined to two regions and starts on a Monday.",
        "A seasonal pattern explains most of the movement.",
        "Four rows look like typing errors and were left out.",
        "The interval is wide because there are only nine weeks of data.",
        "The chart is attached as a file.",
    ),
    (
        "Thursday at ten suits everybody.",
        "I have moved the meeting and told the guests.",
        "The room is free as well.",
        "One guest has not answered yet.",
        "The reminder is set for the evening before.",
    ),
)

# A salutation by language of world.LANGUAGES; the sample's texts are otherwise English.
GREETINGS = ("Hello. ", "Guten Tag. ", "Bonjour. ", "Buenos días. ", "こんにちは。", "Bom dia. ")
SEARCHED = (
    "3 passages found; best match 0.82",
    "5 passages found; best match 0.77",
    "8 passages found; best match 0.91",
    "2 passages found; best match 0.69",
)
TOOL_ANSWERS = (
    '{"ok":true,"rows":1}',
    '{"ok":true,"rows":12}',
    '{"ok":true,"state":"done"}',
    '{"ok":true,"rows":0}',
    '{"ok":true,"state":"queued"}',
)
COMMENTS = (
    ("Did what I asked.", "Quick and clear, thank you.", "Exactly right.", "Good, but a bit long."),
    ("That is not what I asked.", "Wrong order number again.", "It stopped in the middle.", "Too slow.", "The answer was out of date."),
)
FIRST_NAMES = ("anna", "bruno", "carla", "deniz", "elif", "felix", "greta", "hugo", "ines", "jonas")
ERROR_MESSAGES = {
    "RetrievalError": "index shard {number} did not answer within 2000 ms",
    "RateLimitError": "rate limit of {number}0 tokens per minute reached; retry after {small} s",
    "APITimeoutError": "request timed out after 30.0 s (request req_{number})",
    "InternalServerError": "the server had an error while processing the request (request req_{number})",
    "ToolError": "backend answered 502 for call {number}",
    "ToolTimeout": "no answer after 12 s from worker {small}",
    "OutputParserError": "could not parse answer: expected '}}' at line {small} column {number}",
    "AuthenticationError": "credentials of integration {number} were refused (401)",
    "SchemaValidationError": "field 'items[{small}].amount' is missing in answer {number}",
    "RuntimeError": "unexpected state in step {small}: handle {number} is closed",
}


def questions() -> list[list[str]]:
    """QUESTIONS stock questions for each agent."""
    result = []
    for beginnings, subjects in _ASKED:
        extras = (
            "",
            " It is rather urgent.",
            " Please keep it short.",
            " Use the latest figures.",
            " Same as last month.",
            " Mind the deadline on Friday.",
            " For the whole team.",
        )
        every = [f"{beginning} {subject}?{extra}" for extra in extras for beginning in beginnings for subject in subjects]
        result.append([every[number % len(every)] + ("" if number < len(every) else " Thank you.") for number in range(QUESTIONS)])
    return result


def answers() -> list[list[str]]:
    """ANSWERS answers of two sentences for each agent."""
    return [[f"{first} {second}" for first, second in permutations(sentences, 2)] for sentences in _ANSWERED]
