"""Whether a request is let in, decided when its headers are complete and before anything is done for it."""
