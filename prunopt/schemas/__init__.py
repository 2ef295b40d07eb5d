"""JSON Schemas of what each command prints with ``--json``: ``COMMAND.json``."""
