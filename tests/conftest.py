"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# An example that takes long says that the machine is busy, and nothing of what is tested.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
