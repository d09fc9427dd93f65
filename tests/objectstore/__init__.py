"""Object stores for the tests and the benchmarks: real servers, and a proxy that counts and breaks requests."""

from objectstore.place import Place, places
from objectstore.proxy import FAULTS, Proxy, Request

__all__ = ["FAULTS", "Place", "Proxy", "Request", "places"]
