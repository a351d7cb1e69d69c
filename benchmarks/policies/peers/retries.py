"""The libraries that retry and do nothing else."""

import logging
from importlib import import_module

from benchmarks.policies.contestant import ATTEMPTS, Contestant, Function, Sizes


class Tenacity(Contestant):
    """Does not wait between attempts unless told to."""

    name = "tenacity"
    package = "tenacity"

    def __init__(self) -> None:
        self.api = import_module("tenacity")

    def retry(self, function: Function, sizes: Sizes) -> Function:
        decorated: Function = self.api.retry(stop=self.api.stop_after_attempt(ATTEMPTS))(function)
        return decorated


class Stamina(Contestant):
    """tenacity with better defaults."""

    name = "stamina"
    package = "stamina"

    def __init__(self) -> None:
        self.api = import_module("stamina")
        # It tells of retries, which happen only while it is proved.
        logging.getLogger("stamina").addHandler(logging.NullHandler())

    def retry(self, function: Function, sizes: Sizes) -> Function:
        delay = sizes.delay
        retry = self.api.retry(on=Exception, attempts=ATTEMPTS, wait_initial=delay, wait_jitter=delay)
        decorated: Function = retry(function)
        return decorated


class Backoff(Contestant):
    """Exponential, with full jitter."""

    name = "backoff"
    package = "backoff"

    def __init__(self) -> None:
        self.api = import_module("backoff")

    def retry(self, function: Function, sizes: Sizes) -> Function:
        retry = self.api.on_exception(self.api.expo, Exception, max_tries=ATTEMPTS, factor=sizes.delay)
        decorated: Function = retry(function)
        return decorated
