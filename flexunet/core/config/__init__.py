"""Every setting with its bounds and its description, one file per section; TOML in, frozen models out."""
