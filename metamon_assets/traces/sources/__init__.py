"""One module per wire: LangSmith's API, its bulk export, OTLP/JSON, files. ``base`` says what they share."""
