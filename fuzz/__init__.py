"""Fuzzing: what strangers may send, mutated with an eye for its structure, guided by coverage where atheris is there.

``python -m fuzz`` runs the targets. Each is a function of bytes that raises ``Broken`` when a promise is not kept, so
the tests run it as well, with a few hundred inputs from a seed.
"""
