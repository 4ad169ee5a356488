"""The ground both sides stand on: settings, the Ray runtime, records, the log, the registry."""
