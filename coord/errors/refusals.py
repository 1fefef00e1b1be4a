"""Brokers and databases that are there, and with which there is no connection."""

from __future__ import annotations

from coord.errors.spine import DatabaseNotReady, Fault, NotConnected


class BrokerLoginRefused(NotConnected):
    """The broker does not let this login in."""

    code = "bus.login_refused"
    fault = Fault.OPERATOR
    remedy = "Check `nats.user` and its password, token or creds_file: `coord config show --origin`."


class BrokerNotTrusted(NotConnected):
    """There is no encrypted connection to the broker that both sides trust."""

    code = "bus.not_trusted"
    fault = Fault.OPERATOR
    remedy = "Look at the certificates, until when they are valid and for which names, and at `nats.tls_ca_file`."


class DatabaseNotTrusted(DatabaseNotReady):
    """There is no encrypted connection to the database that both sides trust."""

    code = "store.not_trusted"
    remedy = "Look at the certificates, until when they are valid and for which names, and at those in `database.url`."
