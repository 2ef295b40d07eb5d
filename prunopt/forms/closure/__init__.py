"""Maximum-weight closures."""
