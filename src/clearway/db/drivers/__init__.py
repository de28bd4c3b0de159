"""What differs between the drivers that reach PostgreSQL."""

from clearway.db.drivers.base import Driver, driver_by_name, driver_of

__all__ = ["Driver", "driver_by_name", "driver_of"]
