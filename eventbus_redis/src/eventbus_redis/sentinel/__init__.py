"""The primary of a service that Redis Sentinel watches."""
