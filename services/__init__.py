"""Request in, record out: the Serve applications."""
