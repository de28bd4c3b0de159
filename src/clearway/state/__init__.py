"""What a service opens once and shares: typed, in order of need, closed in reverse."""

from clearway.state.resource import Resource, resource
from clearway.state.resources import ResourceSnapshot

__all__ = ["Resource", "ResourceSnapshot", "resource"]
