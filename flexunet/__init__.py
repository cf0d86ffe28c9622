"""The library: light, no TFX at import; what the command, a client, a script and a notebook use."""
