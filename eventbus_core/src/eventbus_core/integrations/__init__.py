"""Connects the bus to other software: Prometheus, OpenTelemetry, and frameworks with a backend to choose."""
