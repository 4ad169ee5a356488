"""Records in, model version out: the steps of a cycle, and the wheel that decides when to turn."""
