"""What holds for every test: time decides nothing."""

from hypothesis import HealthCheck, settings

# On a busy machine an example may take any time. Another profile's settings, those for CI for instance, stay.
settings.register_profile("house", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")
