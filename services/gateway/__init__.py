"""The gateway: authenticate -> route -> record, around an engine's own OpenAI app."""
