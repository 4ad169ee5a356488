"""Agents: a model in a loop with tools, whose every step is in the log before the next one begins."""
