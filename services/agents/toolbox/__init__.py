"""Every kind of tool, each in a file of its own that turns it into a `Tool`."""
