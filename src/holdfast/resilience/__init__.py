"""Policies: one a file, each with its settings."""
