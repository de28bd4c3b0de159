"""Calls to other services: bounded, in the ledger, and with the request's ids on them."""

from clearway.outbound.outbound import Outbound

__all__ = ["Outbound"]
