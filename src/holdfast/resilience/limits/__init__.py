"""Algorithms that find out how many calls may be under way at once: one a file, pure, time is an argument."""
