"""The commands of ``prunopt``, one a file; `prunopt.cli` puts them together."""
