"""Signals: what flows forward and back through a network, read off its program."""
