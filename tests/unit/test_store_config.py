"""Settings of the database edge: what is refused, and what is never shown."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from coord.core.breaker import BreakerPolicy
from coord.errors import SettingsError
from coord.store.config import AgesConfig, DatabaseConfig
from coord.store.pool import Pool
from coord.telemetry.metrics import Metrics


def test_the_defaults_are_valid() -> None:
    DatabaseConfig().validate()
    AgesConfig().validate()
    AgesConfig(retain_days=None).validate()


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"url": "mysql://h/db"}, "database.url"),
        ({"url": "h:5432/db"}, "database.url"),
        ({"url": "postgresql://h:5432"}, "names no database"),
        ({"url": "postgresql://[h/db"}, "database.url"),
        ({"pool_min": 6, "pool_max": 5}, "pool_min"),
        ({"pool_min": -1}, "pool_min"),
        ({"pool_min": 0, "pool_max": 0}, "pool_max"),
        ({"connect_timeout_s": 0}, "connect_timeout_s"),
        ({"acquire_timeout_s": -1.0}, "acquire_timeout_s"),
        ({"health_after_s": 300.0, "idle_s": 300.0}, "health_after_s"),
        ({"idle_in_transaction_s": 31.0}, "idle_in_transaction_s"),
        ({"circuit_failures_max": 0}, "circuit_failures_max"),
        ({"circuit_open_max_s": 0.0}, "circuit_open_max_s"),
        ({"application_name": "x" * 64}, "application_name"),
    ],
)
def test_what_does_not_fit_is_refused_naming_the_field(fields: dict[str, object], names: str) -> None:
    config = DatabaseConfig(**fields)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=names):
        config.validate()


def test_a_circuit_is_open_no_longer_than_the_setting_says() -> None:
    assert DatabaseConfig().breaker == BreakerPolicy()
    shortest = DatabaseConfig(circuit_failures_max=2, circuit_open_max_s=0.05)
    shortest.validate()
    shortest.breaker.validate()
    assert shortest.breaker == BreakerPolicy(failures_max=2, open_first_s=0.05, open_max_s=0.05)
    assert Pool(shortest, metrics=Metrics(CollectorRegistry())).circuit.policy == shortest.breaker


@pytest.mark.parametrize("ages", [AgesConfig(hot_days=0), AgesConfig(hot_days=7, retain_days=7)])
def test_ages_must_follow_each_other(ages: AgesConfig) -> None:
    with pytest.raises(SettingsError, match="ages"):
        ages.validate()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:s3cret@db:5432/coord", "postgresql://ada:***@db:5432/coord"),
        ("postgresql://ada:s%40:c@db/coord", "postgresql://ada:***@db/coord"),
        ("postgresql://ada@db/coord", "postgresql://ada@db/coord"),
        ("postgresql://db:5432/coord", "postgresql://db:5432/coord"),
        ("postgresql:///coord?host=/run&password=s3cret&x=1", "postgresql:///coord?host=/run&password=***&x=1"),
        ("postgresql://a:s3cret@h1:1,h2:2/coord", "postgresql://a:***@h1:1,h2:2/coord"),
        ("postgresql://db/coord?sslpassword=s3cret&x=1", "postgresql://db/coord?sslpassword=***&x=1"),
    ],
)
def test_a_password_is_never_shown(url: str, shown: str) -> None:
    assert DatabaseConfig(url=url).safe_url == shown
