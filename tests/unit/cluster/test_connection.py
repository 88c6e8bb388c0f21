"""Credentials that the official client reads, as they come and go."""

import logging

import pytest
from kubernetes import client

from sglang_operator.cluster import connection


@pytest.fixture
def credentials(monkeypatch):
    """A configuration whose hook is the test's, asked anew each time."""
    monkeypatch.setattr(connection, "AUTHORIZATION_SECONDS", -1.0)
    configuration = client.Configuration()
    configuration.api_key = {"authorization": "Bearer first"}
    return configuration


def raising(error: Exception):
    def hook(_: object) -> None:
        raise error

    return hook


@pytest.mark.parametrize("error", [FileNotFoundError("token"), ValueError("of first: s3cret")])
def test_credentials_that_cannot_be_read_for_a_moment_are_the_last_ones(credentials, error, caplog):
    found = connection.Connection(credentials)
    assert found.authorization() == "Bearer first"
    credentials.refresh_api_key_hook = raising(error)
    with caplog.at_level(logging.WARNING):
        assert found.authorization() == "Bearer first"
    assert f"credentials cannot be read: {type(error).__name__}" in caplog.text
    assert "s3cret" not in caplog.text
    credentials.refresh_api_key_hook = None
    credentials.api_key = {"authorization": "Bearer second\n"}
    assert found.authorization() == "Bearer second"


def test_credentials_that_never_could_be_read_are_an_error_of_the_connection(credentials):
    credentials.refresh_api_key_hook = raising(ValueError("empty"))
    found = connection.Connection(credentials)
    for _ in range(2):
        with pytest.raises(OSError, match="credentials cannot be read: ValueError"):
            found.authorization()
